//! Provider of workers that are processes of this host.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hodei_agent::{
    Compression, ConnectError, FileLogger, Leftovers, LivingAgent, Marks, kill_marked, living_agents,
    marked_workers, watch_exit,
};
use hodei_core::id::{AttemptId, OrderId, StoreId, WorkerId};
use hodei_core::port::{Clock, ClockExt, ProvidedWorker, ProviderError, WorkerProvider};
use hodei_core::provider::ProviderProfile;
use hodei_core::worker::WorkerOrder;
use hodei_proto::tls::TlsFiles;
use rustix::process::Signal;
use uuid::Uuid;

use super::ProviderContext;
use super::begun::BegunByDead;
use super::leftovers::clear;
use super::local::LocalOptions;
use crate::clock::SystemClock;

/// Provider of workers that are processes of this host: each is a `hodei-agent` that connects back to the platform's
/// server.
///
/// The workers outlive this process. Every process carries marks in its environment, by which the next start of the
/// same store finds it.
#[derive(Debug, Clone)]
pub struct ProcessProvider {
    context: ProviderContext,
    options: ProcessOptions,
    /// Ended agents that this process started, with the way they ended.
    exited: Arc<Mutex<BTreeMap<WorkerId, (OrderId, String)>>>,
    /// Workers whose agents have a task that waits for their end.
    watched: Arc<Mutex<BTreeSet<WorkerId>>>,
    begun: BegunByDead,
}

/// Options of a [`ProcessProvider`].
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    /// Name, slots, number, resources, labels, lifetime, workspaces and log files of the workers; the name is `process`
    /// by default, and each job has a workspace.
    pub workers: LocalOptions,
    /// Path of the program `hodei-agent`.
    pub agent: PathBuf,
    /// URLs of the platform's server for the agents, each `https://HOST:PORT`, `http://HOST:PORT` or `unix:PATH`.
    pub servers: Vec<String>,
    /// A file with the server's current URLs, as in [`servers`](Self::servers), which agents read when they reconnect:
    /// with it a platform that returns at another address keeps its workers. None by default.
    pub server_file: Option<PathBuf>,
    /// TLS files of the agents for `https:` URLs.
    pub tls: TlsFiles,
    /// Directory in which agents keep output while the platform is away.
    pub spool_dir: PathBuf,
    /// Maximum output that each agent keeps, in bytes; 256 MiB. Output beyond it is dropped, and the log says so.
    pub spool_limit: u64,
    /// Whether the agents compress the output they send; by default only to another machine.
    pub compression: Compression,
    /// Time without the platform after which an agent ends its jobs and itself; 30 min.
    pub orphan_timeout: Duration,
    /// Soft limit of file descriptors for agents and their jobs; by default that of this process.
    pub soft_files: Option<u64>,
}

impl ProcessOptions {
    /// Creates options for workers that run this agent and connect to this server.
    pub fn new(agent: impl Into<PathBuf>, server: impl Into<String>) -> Self {
        Self {
            workers: LocalOptions { name: "process".into(), ..LocalOptions::default() },
            agent: agent.into(),
            servers: vec![server.into()],
            server_file: None,
            tls: TlsFiles::default(),
            spool_dir: std::env::temp_dir(),
            spool_limit: 256 << 20,
            compression: Compression::Auto,
            orphan_timeout: Duration::from_secs(30 * 60),
            soft_files: None,
        }
    }
}

impl ProcessOptions {
    fn log_arguments(&self) -> Vec<OsString> {
        let Some(FileLogger { dir, limit }) = &self.workers.file_logger else { return Vec::new() };
        ["--log-dir".into(), dir.into(), "--log-limit".into(), limit.to_string().into()].into()
    }

    fn server_arguments(&self) -> impl Iterator<Item = OsString> {
        let file = self.server_file.iter().flat_map(|file| ["--server-file".into(), file.into()]);
        ["--server".into(), self.servers.join(",").into()].into_iter().chain(file)
    }

    fn state_arguments(&self) -> Vec<String> {
        let state = &self.workers.start_state;
        let niceness = state.niceness.map(|niceness| format!("--job-niceness={niceness}"));
        let score = state.oom_score_adj.map(|score| format!("--job-oom-score-adj={score}"));
        [format!("--job-umask={:03o}", state.umask)].into_iter().chain(niceness).chain(score).collect()
    }

    fn tls_arguments(&self) -> impl Iterator<Item = &OsStr> {
        let TlsFiles { ca, cert, key } = &self.tls;
        let files = [("--tls-ca", ca), ("--tls-cert", cert), ("--tls-key", key)];
        files
            .into_iter()
            .filter_map(|(flag, file)| Some([OsStr::new(flag), file.as_ref()?.as_os_str()]))
            .flatten()
    }
}

/// Why the agents of a [`ProcessProvider`] cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentCheck {
    /// The program cannot be run.
    #[error("the agent {} cannot be run: {why}; name the program hodei-agent with `agent`", agent.display())]
    Program {
        /// The program.
        agent: PathBuf,
        /// The reason.
        why: String,
    },
    /// The agent does not trust the server.
    #[error("agents do not trust the server: {0}")]
    NotTrusted(String),
    /// The agent does not reach the server.
    #[error("agents do not reach the server: {0}")]
    NotReached(String),
}

impl ProcessOptions {
    /// Has the agent connect to the server once, as workers will. A check that takes more than 15 s is ended and counts
    /// as passed. Cancel safe: a drop ends the agent.
    ///
    /// # Errors
    /// [`AgentCheck`], with the remedy.
    pub async fn check(&self) -> Result<(), AgentCheck> {
        let mut command = Command::new(&self.agent);
        command.env_clear().envs(inherited()).arg("--check").arg("--server").arg(self.servers.join(","));
        command.args(["--owner", &Uuid::nil().to_string()]).args(self.tls_arguments());
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = |why: String| AgentCheck::Program { agent: self.agent.clone(), why };
        let failed = |error: io::Error| program(error.to_string());
        let (mut checking, clock) = (CheckProcess(command.spawn().map_err(failed)?), SystemClock::default());
        let ended = async {
            loop {
                match checking.0.try_wait() {
                    Ok(None) => clock.sleep(CHECK_POLL_INTERVAL).await,
                    ended => return ended,
                }
            }
        };
        let Ok(ended) = clock.timeout(CHECK_TIMEOUT, ended).await else { return Ok(()) };
        let Some(status) = ended.map_err(failed)? else { return Ok(()) };
        let said = said(checking.0.stdout.take());
        match status.code() {
            Some(0) if said.starts_with("hodei-agent ") => Ok(()),
            Some(0) => Err(program("it exits with 0 but is not the program hodei-agent".into())),
            Some(3) => Err(AgentCheck::NotTrusted(with_remedy(&said))),
            Some(4) => Err(AgentCheck::NotReached(with_remedy(&said))),
            _ => {
                let errors = self::said(checking.0.stderr.take());
                let last = errors.lines().last().unwrap_or_default();
                Err(program(format!("it {}: {last}", ended_how(status))))
            }
        }
    }
}

/// Timeout of a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(15);
/// Interval between two polls of a check.
const CHECK_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum number of bytes read from an agent's output; a pipe holds that much after the process has ended.
const MAX_OUTPUT_BYTES: u64 = 64 << 10;

/// A checking agent; a drop kills it.
struct CheckProcess(Child);

impl Drop for CheckProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads the pipe of an ended process, without waiting for the end of the pipe: a process that it left behind may hold
/// the other end.
fn said(pipe: Option<impl Read + AsFd>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe
        && rustix::io::ioctl_fionbio(&pipe, true).is_ok()
    {
        let _ = pipe.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// Adds the remedy to an agent's report about a server that it does not reach.
fn with_remedy(why: &str) -> String {
    let remedy = if why.contains("certificate") {
        "check that the daemon's certificate names that address (set another with `advertise`) and that `tls_ca` signed it"
    } else {
        "set `advertise` to an address at which agents reach the daemon"
    };
    format!("{why}: {remedy}")
}

impl ProcessProvider {
    /// Creates a provider for the platform of this context.
    pub fn new(context: ProviderContext, mut options: ProcessOptions) -> Self {
        options.workers = options.workers.of_this_machine(&context);
        let begun = BegunByDead::default();
        Self { context, options, exited: Arc::default(), watched: Arc::default(), begun }
    }

    fn name(&self) -> &str {
        &self.options.workers.name
    }

    fn marks(&self, worker: WorkerId) -> Marks {
        Marks::new(self.context.owner, self.name(), worker)
    }

    fn exited(&self) -> MutexGuard<'_, BTreeMap<WorkerId, (OrderId, String)>> {
        self.exited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watched(&self) -> MutexGuard<'_, BTreeSet<WorkerId>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the path of the file in which an agent writes why it does not reach the server.
    fn trouble_file(&self, worker: WorkerId) -> PathBuf {
        self.options.spool_dir.join(format!("hodei-agent-{worker}.trouble"))
    }

    fn trouble_of(&self, worker: WorkerId) -> Option<String> {
        let why = std::fs::read_to_string(self.trouble_file(worker)).ok()?;
        Some(format!("its agent does not reach the server: {}", with_remedy(why.trim())))
    }

    /// Starts an agent in a process group of its own, so that a Ctrl-C at the platform's terminal does not reach it.
    fn start(&self, order: &WorkerOrder, token: &str) -> io::Result<Child> {
        let options = &self.options;
        let mut command = Command::new(&options.agent);
        command
            .env_clear()
            .envs(inherited())
            .envs(self.marks(order.worker).of_agent(order.id))
            .args(options.server_arguments())
            .args(["--owner", &self.context.owner.to_string(), "--provider", self.name()])
            .args(["--slots", &order.capacity.slots.to_string()])
            .args(["--prefetch", &order.capacity.prefetch.to_string()])
            .args(["--cpu-millis", &order.capacity.resources.cpu_millis.to_string()])
            .args(["--memory-bytes", &order.capacity.resources.memory_bytes.to_string()])
            .args(["--orphan-timeout", &options.orphan_timeout.as_secs().max(1).to_string()])
            .arg("--spool-dir")
            .arg(&options.spool_dir)
            .args(["--spool-limit", &options.spool_limit.to_string()])
            .args(["--compress", options.compression.as_str()])
            .args(options.log_arguments())
            .args(options.state_arguments())
            .args(options.soft_files.iter().flat_map(|limit| ["--soft-files".to_owned(), limit.to_string()]))
            .arg("--workspace-dir")
            .arg(&options.workers.workspaces.dir)
            .args(options.tls_arguments())
            .arg("--trouble-file")
            .arg(self.trouble_file(order.worker))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let mut child = command.spawn()?;
        let told = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(token.as_bytes()));
        // If the agent ended before it read its token, its exit status says more than this error.
        if let Err(error) = told.or_else(ended_at_once) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok(child)
    }

    /// Waits for the end of an agent that another process started.
    fn adopt(&self, LivingAgent { worker, order, exit }: LivingAgent) {
        if !self.watched().insert(worker) {
            return;
        }
        let (exited, context) = (self.exited.clone(), self.context.clone());
        self.context.spawn("adopted agent", move |stop| async move {
            tokio::select! { biased; _ = exit.readable() => {} () = stop.cancelled() => return }
            // An entry by the task that started the agent has more detail.
            let mut exited = exited.lock().unwrap_or_else(PoisonError::into_inner);
            exited.entry(worker).or_insert_with(|| (order, "its agent ended".to_owned()));
            drop(exited);
            context.worker_exited();
        });
    }

    /// Waits for the end of an agent, so that it does not remain a zombie and its end is known at once.
    fn watch(&self, mut child: Child, order: &WorkerOrder) -> io::Result<()> {
        let exit = watch_exit(&child).inspect_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
        })?;
        let (exited, order, worker) = (self.exited.clone(), order.id, order.worker);
        self.watched().insert(worker);
        let (context, provider) = (self.context.clone(), self.clone());
        self.context.spawn("agent process", move |stop| async move {
            tokio::select! {
                biased;
                _ = exit.readable() => {}
                // The agent outlives this process.
                () = stop.cancelled() => return,
            }
            if let Ok(status) = child.wait() {
                let trouble = provider.trouble_of(worker).map_or_else(String::new, |why| format!("; {why}"));
                let why = format!("its agent {}{trouble}", ended_how(status));
                exited.lock().unwrap_or_else(PoisonError::into_inner).insert(worker, (order, why));
                context.worker_exited();
            }
        });
        Ok(())
    }
}

/// Returns the environment variables that an agent inherits: those that it passes on to its jobs, and its log level.
fn inherited() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    let names = ["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "HODEI_LOG"];
    names.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

fn ended_at_once(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

fn ended_how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[async_trait]
impl WorkerProvider for ProcessProvider {
    fn profile(&self) -> ProviderProfile {
        self.options.workers.profile("process")
    }

    async fn create(&self, order: &WorkerOrder) -> Result<String, ProviderError> {
        let reference = format!("{}/{}", self.name(), order.id);
        let there = marked_workers(self.context.owner, self.name());
        if there.get(&order.worker).is_some_and(Option::is_some) || self.exited().contains_key(&order.worker)
        {
            return Ok(reference);
        }
        let token = self.context.door.issue_token(order.worker).await.map_err(|error| match error {
            ConnectError::Refused(why) => ProviderError::Refused(why),
            error => ProviderError::Unavailable(error.to_string()),
        })?;
        let agent = self.options.agent.display();
        let child = self.start(order, &token).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                ProviderError::Refused(format!("the agent {agent} cannot be started: {error}"))
            }
            _ => ProviderError::Unavailable(format!("the agent {agent} cannot be started: {error}")),
        })?;
        self.watch(child, order).map_err(|error| ProviderError::Unavailable(error.to_string()))?;
        Ok(reference)
    }

    async fn recover(&self, owner: StoreId) -> Result<(), ProviderError> {
        // Agents that outlived a daemon continue, and their jobs with them.
        let living: BTreeSet<WorkerId> = marked_workers(owner, self.name()).into_keys().collect();
        let LocalOptions { name, workspaces, .. } = self.options.workers.clone();
        self.begun.read_all(owner, &name, &workspaces.dir, BTreeSet::clone(&living)).await;
        let left = Leftovers::of_owner(owner, &name, living);
        clear(&*self.context.clock, left, workspaces.dir).await;
        // They are not children of this process, so the system does not report their end.
        living_agents(owner, self.name()).into_iter().for_each(|agent| self.adopt(agent));
        Ok(())
    }

    async fn evict(&self, worker: WorkerId) -> Result<(), ProviderError> {
        let mut agents = living_agents(self.context.owner, self.name()).into_iter();
        let Some(agent) = agents.find(|agent| agent.worker == worker) else { return Ok(()) };
        let signal = |signal| {
            rustix::process::pidfd_send_signal(&agent.exit, signal)
                .map_err(|error| ProviderError::Unavailable(error.to_string()))
        };
        // TERM makes it drain and QUIT makes it end its jobs; two equal signals could merge into one.
        signal(Signal::TERM)?;
        signal(Signal::QUIT)
    }

    async fn destroy(&self, worker: WorkerId, grace: Duration) -> Result<(), ProviderError> {
        let of_worker = self.marks(worker);
        let marks = of_worker.of_worker();
        let clock = &*self.context.clock;
        if !grace.is_zero() {
            let gone = async {
                while !hodei_agent::marked_processes(&marks).is_empty() {
                    clock.sleep(Duration::from_millis(20)).await;
                }
            };
            let _ = clock.timeout(grace, gone).await;
        }
        if !kill_marked(clock, &marks).await {
            return Err(ProviderError::Unknown("processes of the worker are still alive".into()));
        }
        let workspaces = self.options.workers.workspaces.dir.clone();
        self.begun.read(worker, &of_worker, &workspaces).await;
        clear(clock, Leftovers::of_worker(&of_worker), workspaces).await;
        let _ = std::fs::remove_file(self.trouble_file(worker));
        self.exited().remove(&worker);
        self.watched().remove(&worker);
        Ok(())
    }

    async fn trouble(&self, worker: WorkerId) -> Option<String> {
        self.trouble_of(worker)
    }

    async fn begun(&self, worker: WorkerId) -> Result<Option<BTreeSet<AttemptId>>, ProviderError> {
        Ok(self.begun.of(worker))
    }

    async fn list(&self, owner: StoreId) -> Result<Vec<ProvidedWorker>, ProviderError> {
        let mut listed = BTreeMap::new();
        for (worker, order) in marked_workers(owner, self.name()) {
            let left =
                order.is_none().then(|| "its agent is dead, but processes of its jobs are alive".to_owned());
            let order = order.unwrap_or(OrderId::from_uuid(Uuid::nil()));
            listed.insert(worker, ProvidedWorker { worker, order, exited: left });
        }
        if owner == self.context.owner {
            for (worker, (order, why)) in self.exited().iter() {
                let (worker, order, exited) = (*worker, *order, Some(why.clone()));
                listed.insert(worker, ProvidedWorker { worker, order, exited });
            }
        }
        Ok(listed.into_values().collect())
    }
}
