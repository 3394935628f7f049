//! The platform's end of an agent's stream, controlled by a test.
#![allow(clippy::unwrap_used, dead_code, reason = "a test, and each uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hodei_agent::{
    Agent, AgentConfig, AgentStop, ArtifactChannel, ArtifactParts, ConnectError, Connection, Connector,
    Executor, FileLogger, JobExecutor, Marks, SystemClock, TransferError, Workspaces, marked_processes,
};
use hodei_core::artifact::{Artifact, Digest};
use hodei_core::id::{AttemptId, JobId, StoreId, WorkerId};
use hodei_core::job::{AttemptReport, CauseKind, JobSpecBuilder};
use hodei_core::port::{Clock, ClockExt};
use hodei_proto::v1::agent_message::Body as FromAgent;
use hodei_proto::v1::artifact_part::Part;
use hodei_proto::v1::server_message::Body as ToAgent;
use hodei_proto::v1::store_request::Part as Sent;
use hodei_proto::{convert, v1};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Connects the agent to the test.
#[derive(Debug, Default)]
pub(crate) struct Door {
    open: Mutex<Option<Connection>>,
    closed: AtomicU64,
    pub(crate) shelf: Shelf,
}

/// Artifacts, and faults in their transfers: each fault applies to one transfer, the last one first.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    pub(crate) inputs: Mutex<BTreeMap<String, Vec<u8>>>,
    /// The mode of an input, and whether it is a link.
    pub(crate) kinds: Mutex<BTreeMap<String, (Option<u32>, bool)>>,
    pub(crate) stored: Mutex<BTreeMap<String, Vec<u8>>>,
    pub(crate) faults: Mutex<Vec<Fault>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Away,
    Cut,
    Corrupt,
    Hang,
    Fenced,
}

impl Shelf {
    fn fault(&self) -> Option<Fault> {
        self.faults.lock().unwrap().pop()
    }

    pub(crate) fn stored(&self) -> Vec<(String, String)> {
        let stored = self.stored.lock().unwrap();
        stored.iter().map(|(name, bytes)| (name.clone(), String::from_utf8_lossy(bytes).into())).collect()
    }
}

#[async_trait]
impl ArtifactChannel for Door {
    async fn fetch(&self, request: v1::FetchRequest) -> Result<ArtifactParts, TransferError> {
        let fault = self.shelf.fault();
        let found = self.shelf.inputs.lock().unwrap().get(&request.path).cloned();
        let mut bytes = match (fault, found) {
            (Some(Fault::Away), _) => return Err(TransferError::Unavailable("away".into())),
            (Some(Fault::Fenced), _) => return Err(TransferError::Fenced),
            (Some(Fault::Hang), _) => std::future::pending().await,
            (_, None) => return Err(TransferError::Refused(format!("`{}` is not there", request.path))),
            (_, Some(bytes)) => bytes,
        };
        let (parts, to_agent) = mpsc::channel(16);
        let sha256 = Digest::from_bytes(Sha256::digest(&bytes).into());
        let (mode, is_link) =
            self.shelf.kinds.lock().unwrap().get(&request.path).copied().unwrap_or_default();
        let name = request.path.parse().unwrap();
        let artifact = Artifact { name, bytes: bytes.len() as u64, sha256, mode, is_link };
        if fault == Some(Fault::Corrupt) {
            bytes[0] ^= 1;
        }
        if fault == Some(Fault::Cut) {
            bytes.pop();
        }
        let pieces = bytes.chunks(3).map(|piece| Part::Data(piece.to_vec().into()));
        for part in [Part::Artifact(convert::artifact_to_wire(&artifact))].into_iter().chain(pieces) {
            let _ = parts.try_send(Ok(v1::ArtifactPart { part: Some(part) }));
        }
        Ok(to_agent)
    }

    async fn store(&self, mut requests: mpsc::Receiver<v1::StoreRequest>) -> Result<(), TransferError> {
        match self.shelf.fault() {
            Some(Fault::Away) => return Err(TransferError::Unavailable("away".into())),
            Some(Fault::Fenced) => return Err(TransferError::Fenced),
            Some(Fault::Hang) => std::future::pending().await,
            _ => {}
        }
        let (mut name, mut content) = (String::new(), Vec::new());
        while let Some(request) = requests.recv().await {
            match request.part.unwrap() {
                Sent::Begin(begin) => name = begin.name,
                Sent::Data(data) => content.extend(&data),
                Sent::End(told) => {
                    assert_eq!(*told.sha256, Sha256::digest(&content)[..]);
                    self.shelf.stored.lock().unwrap().insert(name, content);
                    return Ok(());
                }
            }
        }
        Err(TransferError::Unavailable("the transfer ended early".into()))
    }
}

#[async_trait]
impl Connector for Door {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let open = self.open.lock().unwrap().take();
        // Counts the attempts to connect while it is closed.
        self.closed.fetch_add(u64::from(open.is_none()), Ordering::Relaxed);
        open.ok_or_else(|| ConnectError::Unavailable("closed".into()))
    }
}

/// The platform's end of an agent's stream.
pub(crate) struct Platform {
    pub(crate) door: Arc<Door>,
    pub(crate) to: mpsc::Sender<v1::ServerMessage>,
    pub(crate) from: mpsc::Receiver<v1::AgentMessage>,
    pub(crate) stop: AgentStop,
    pub(crate) agent: tokio::task::JoinHandle<hodei_agent::Left>,
    pub(crate) marks: Marks,
    pub(crate) id: Uuid,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) log_seen: u64,
    /// The parent of its jobs' workspaces.
    pub(crate) workspaces: tempfile::TempDir,
}

/// Returns a directory in memory if there is one: some tests leave many files to remove.
pub(crate) fn memory() -> PathBuf {
    Some(PathBuf::from("/dev/shm")).filter(|dir| dir.is_dir()).unwrap_or_else(std::env::temp_dir)
}

pub(crate) fn stream(door: &Door) -> (mpsc::Sender<v1::ServerMessage>, mpsc::Receiver<v1::AgentMessage>) {
    let (outgoing, from) = mpsc::channel(64);
    let (to, incoming) = mpsc::channel(64);
    *door.open.lock().unwrap() = Some(Connection { outgoing, incoming });
    (to, from)
}

impl Platform {
    pub(crate) async fn start(slots: u32) -> Self {
        Self::start_with(AgentConfig { slots, ..AgentConfig::default() }, None).await
    }

    pub(crate) async fn start_with(config: AgentConfig, logger: Option<FileLogger>) -> Self {
        Self::start_over(config, |executor| match logger {
            Some(logger) => Arc::new(executor.with_file_logger(logger)),
            None => Arc::new(executor),
        })
        .await
    }

    /// Starts an agent with an executor of the test.
    pub(crate) async fn start_over(
        config: AgentConfig,
        executor: impl FnOnce(JobExecutor) -> Arc<dyn Executor>,
    ) -> Self {
        let (door, clock) = (Arc::new(Door::default()), Arc::new(SystemClock::default()));
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = (clock.now().as_micros() as u64) << 8 | NEXT.fetch_add(1, Ordering::Relaxed);
        let id = Uuid::from_u64_pair(u64::from(std::process::id()), unique);
        let marks = Marks::new(StoreId::from_uuid(id), "test", WorkerId::from_uuid(id));
        let (to, from) = stream(&door);
        let config = AgentConfig { reconnect: Duration::from_millis(5), ..config };
        let workspaces = tempfile::tempdir_in(memory()).unwrap();
        let there = Workspaces { dir: workspaces.path().join("made/when-missing"), only_if_needed: false };
        let executor = executor(JobExecutor::new(clock.clone(), marks.clone()).with_workspaces(there));
        let stop = AgentStop::default();
        #[allow(clippy::disallowed_methods, reason = "the test owns the agent")]
        let agent = tokio::spawn(Agent::new(config, door.clone(), executor, clock).run(stop.clone()));
        let (stdout, stderr) = (Vec::new(), Vec::new());
        let mut platform =
            Self { door, to, from, stop, agent, marks, id, stdout, stderr, log_seen: 0, workspaces };
        platform.welcome().await;
        platform
    }

    pub(crate) async fn welcome(&mut self) -> v1::Hello {
        let Some(FromAgent::Hello(hello)) = self.next().await else { panic!("no hello") };
        self.send(ToAgent::Welcome(v1::Welcome {
            version: 1,
            heartbeat_micros: 10_000_000,
            ..v1::Welcome::default()
        }))
        .await;
        hello
    }

    /// Breaks the stream. Returns once the agent has noticed.
    pub(crate) async fn break_stream(&mut self) {
        (self.to, self.from) = (mpsc::channel(1).0, mpsc::channel(1).1);
        while self.door.closed.load(Ordering::Relaxed) == 0 {
            SystemClock::default().sleep(Duration::from_millis(1)).await;
        }
    }

    /// Opens a new stream, on which the agent sends heartbeats at this interval.
    pub(crate) async fn again(&mut self, heartbeat: Duration) {
        (self.to, self.from) = stream(&self.door);
        let Some(FromAgent::Hello(_)) = self.next().await else { panic!("no hello") };
        let heartbeat_micros = convert::micros(heartbeat);
        self.send(ToAgent::Welcome(v1::Welcome { version: 1, heartbeat_micros, ..Default::default() })).await;
    }

    /// Kills the agent. Returns the parent of its jobs' workspaces.
    pub(crate) async fn kill(self) -> tempfile::TempDir {
        self.stop.kill.cancel();
        self.agent.await.unwrap();
        self.workspaces
    }

    pub(crate) async fn send(&self, body: ToAgent) {
        self.to.send(v1::ServerMessage { body: Some(body) }).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Option<FromAgent> {
        let message = SystemClock::default().timeout(Duration::from_secs(20), self.from.recv()).await;
        message.expect("the agent is silent").map(|message| message.body.unwrap())
    }

    pub(crate) fn attempt(&self, number: u32) -> AttemptId {
        AttemptId { job: JobId::from_uuid(self.id), number }
    }

    pub(crate) async fn assign(&self, number: u32, spec: JobSpecBuilder) {
        let spec = convert::spec_to_wire(&spec.build().unwrap());
        let attempt = Some(convert::attempt_ref(self.attempt(number)));
        let assignment =
            v1::Assignment { attempt, dispatch: u64::from(number), spec: Some(spec), secrets: Vec::new() };
        self.send(ToAgent::RunJobs(v1::RunJobs { assignments: vec![assignment] })).await;
    }

    pub(crate) async fn cancel(&self, number: u32, grace: Duration) {
        let attempt = Some(convert::attempt_ref(self.attempt(number)));
        let grace_micros = convert::micros(grace);
        self.send(ToAgent::CancelJob(v1::CancelJob { attempt, dispatch: u64::from(number), grace_micros }))
            .await;
    }

    /// Reads until the next report. Keeps and acknowledges output.
    pub(crate) async fn report(&mut self) -> (u32, AttemptReport) {
        loop {
            match self.next().await.expect("the agent left") {
                FromAgent::LogBatch(batch) => self.on_logs(batch).await,
                FromAgent::JobFinished(finished) => {
                    let attempt = finished.attempt.clone().unwrap();
                    let (id, report) = convert::report_from_wire(finished).unwrap();
                    self.send(ToAgent::ResultAck(v1::ResultAck { attempts: vec![attempt] })).await;
                    return (id.number, report);
                }
                _ => {}
            }
        }
    }

    pub(crate) async fn on_logs(&mut self, batch: v1::LogBatch) {
        let mut next = batch.first_sequence;
        for chunk in batch.chunks {
            if next >= self.log_seen {
                match convert::stream_from_wire(chunk.stream).unwrap() {
                    hodei_core::port::LogStream::Stdout => self.stdout.extend(&chunk.data),
                    hodei_core::port::LogStream::Stderr => self.stderr.extend(&chunk.data),
                }
            }
            next += 1;
        }
        self.log_seen = self.log_seen.max(next);
        self.send(ToAgent::LogAck(v1::LogAck { attempt: batch.attempt, next_sequence: next })).await;
    }

    pub(crate) async fn run(&mut self, spec: JobSpecBuilder) -> AttemptReport {
        self.assign(1, spec).await;
        self.report().await.1
    }

    /// Returns the remaining workspaces that are not empty. Empty ones wait for the next job.
    pub(crate) fn left_over(&self) -> Vec<PathBuf> {
        let is_spare =
            |dir: &PathBuf| std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
        let entries = std::fs::read_dir(self.workspaces.path().join("made/when-missing"));
        let paths = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
        paths.filter(|dir| !is_spare(dir)).collect()
    }

    /// Returns the workspaces.
    pub(crate) fn workspaces(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.workspaces.path().join("made/when-missing"));
        let paths = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
        paths.filter(|path| !self.is_temp(path)).collect()
    }

    /// Returns whether a directory is one for temporary files, which an attempt has besides its workspace.
    fn is_temp(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.find('.') == Some("hodei-".len() + 16)
    }

    pub(crate) fn processes(&self) -> usize {
        marked_processes(&self.marks.of_worker()).len()
    }

    pub(crate) async fn wait_for_processes(&self, count: usize) {
        for _ in 0..1000 {
            if self.processes() == count {
                return;
            }
            SystemClock::default().sleep(Duration::from_millis(10)).await;
        }
        panic!("{} processes, not {count}", self.processes());
    }
}

pub(crate) fn cause(report: &AttemptReport) -> Option<CauseKind> {
    report.outcome.cause()
}

/// Reports a test as skipped because this machine lacks a capability. Panics if that capability is required.
pub(crate) fn skip(what: &str) {
    let required = std::env::var("HODEI_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == what), "`{what}` is required but not possible here");
    eprintln!("skipped: `{what}` is not possible here");
}
