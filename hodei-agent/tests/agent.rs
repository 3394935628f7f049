//! The agent with real processes, spoken to over its protocol.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hodei_agent::{
    Agent, AgentConfig, AgentStop, ConnectError, Connection, Connector, JobExecutor, Marks, SystemClock,
    marked_processes,
};
use hodei_core::id::{AttemptId, JobId, StoreId, WorkerId};
use hodei_core::job::{AttemptReport, CauseKind, JobSpec, JobSpecBuilder, Outcome};
use hodei_core::port::{Clock, ClockExt};
use hodei_proto::v1::agent_message::Body as FromAgent;
use hodei_proto::v1::server_message::Body as ToAgent;
use hodei_proto::{convert, v1};
use tokio::sync::mpsc;
use uuid::Uuid;

#[derive(Debug, Default)]
struct Door(Mutex<Option<Connection>>, AtomicU64);

#[async_trait]
impl Connector for Door {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let open = self.0.lock().unwrap().take();
        // How often it was found closed.
        self.1.fetch_add(u64::from(open.is_none()), Ordering::Relaxed);
        open.ok_or_else(|| ConnectError::Unavailable("closed".into()))
    }
}

/// The other end of an agent's stream.
struct Platform {
    door: Arc<Door>,
    to: mpsc::Sender<v1::ServerMessage>,
    from: mpsc::Receiver<v1::AgentMessage>,
    stop: AgentStop,
    agent: tokio::task::JoinHandle<hodei_agent::Left>,
    marks: Marks,
    id: Uuid,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    log_seen: u64,
}

fn stream(door: &Door) -> (mpsc::Sender<v1::ServerMessage>, mpsc::Receiver<v1::AgentMessage>) {
    let (outgoing, from) = mpsc::channel(64);
    let (to, incoming) = mpsc::channel(64);
    *door.0.lock().unwrap() = Some(Connection { outgoing, incoming });
    (to, from)
}

impl Platform {
    async fn start(slots: u32) -> Self {
        let (door, clock) = (Arc::new(Door::default()), Arc::new(SystemClock::default()));
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = (clock.now().as_micros() as u64) << 8 | NEXT.fetch_add(1, Ordering::Relaxed);
        let id = Uuid::from_u64_pair(u64::from(std::process::id()), unique);
        let marks = Marks::new(StoreId::from_uuid(id), "test", WorkerId::from_uuid(id));
        let (to, from) = stream(&door);
        let config = AgentConfig { slots, reconnect: Duration::from_millis(5), ..AgentConfig::default() };
        let executor = Arc::new(JobExecutor::new(clock.clone(), marks.clone()));
        let stop = AgentStop::default();
        #[allow(clippy::disallowed_methods, reason = "the test owns the agent")]
        let agent = tokio::spawn(Agent::new(config, door.clone(), executor, clock).run(stop.clone()));
        let (stdout, stderr) = (Vec::new(), Vec::new());
        let mut platform = Self { door, to, from, stop, agent, marks, id, stdout, stderr, log_seen: 0 };
        platform.welcome().await;
        platform
    }

    async fn welcome(&mut self) -> v1::Hello {
        let Some(FromAgent::Hello(hello)) = self.next().await else { panic!("no hello") };
        self.send(ToAgent::Welcome(v1::Welcome {
            version: 1,
            heartbeat_micros: 10_000_000,
            servers: Vec::new(),
        }))
        .await;
        hello
    }

    /// Returns once the agent knows.
    async fn break_stream(&mut self) {
        (self.to, self.from) = (mpsc::channel(1).0, mpsc::channel(1).1);
        while self.door.1.load(Ordering::Relaxed) == 0 {
            SystemClock::default().sleep(Duration::from_millis(1)).await;
        }
    }

    /// A new stream, over which the agent sends heartbeats this often.
    async fn again(&mut self, heartbeat: Duration) {
        (self.to, self.from) = stream(&self.door);
        let Some(FromAgent::Hello(_)) = self.next().await else { panic!("no hello") };
        let heartbeat_micros = convert::micros(heartbeat);
        self.send(ToAgent::Welcome(v1::Welcome { version: 1, heartbeat_micros, servers: Vec::new() })).await;
    }

    async fn kill(self) {
        self.stop.kill.cancel();
        self.agent.await.unwrap();
    }

    async fn send(&self, body: ToAgent) {
        self.to.send(v1::ServerMessage { body: Some(body) }).await.unwrap();
    }

    async fn next(&mut self) -> Option<FromAgent> {
        let message = SystemClock::default().timeout(Duration::from_secs(20), self.from.recv()).await;
        message.expect("the agent is silent").map(|message| message.body.unwrap())
    }

    fn attempt(&self, number: u32) -> AttemptId {
        AttemptId { job: JobId::from_uuid(self.id), number }
    }

    async fn assign(&self, number: u32, spec: JobSpecBuilder) {
        let spec = convert::spec_to_wire(&spec.build().unwrap());
        let attempt = Some(convert::attempt_ref(self.attempt(number)));
        let assignment =
            v1::Assignment { attempt, dispatch: u64::from(number), spec: Some(spec), secrets: Vec::new() };
        self.send(ToAgent::RunJobs(v1::RunJobs { assignments: vec![assignment] })).await;
    }

    async fn cancel(&self, number: u32, grace: Duration) {
        let attempt = Some(convert::attempt_ref(self.attempt(number)));
        let grace_micros = convert::micros(grace);
        self.send(ToAgent::CancelJob(v1::CancelJob { attempt, dispatch: u64::from(number), grace_micros }))
            .await;
    }

    /// Reads until the next report, keeping and acknowledging output.
    async fn report(&mut self) -> (u32, AttemptReport) {
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

    async fn on_logs(&mut self, batch: v1::LogBatch) {
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

    async fn run(&mut self, spec: JobSpecBuilder) -> AttemptReport {
        self.assign(1, spec).await;
        self.report().await.1
    }

    fn processes(&self) -> usize {
        marked_processes(&self.marks.of_worker()).len()
    }

    async fn wait_for_processes(&self, count: usize) {
        for _ in 0..1000 {
            if self.processes() == count {
                return;
            }
            SystemClock::default().sleep(Duration::from_millis(10)).await;
        }
        panic!("{} processes, not {count}", self.processes());
    }
}

fn cause(report: &AttemptReport) -> Option<CauseKind> {
    report.outcome.cause()
}

#[tokio::test]
async fn output_and_exit_code_come_back() {
    let mut platform = Platform::start(1).await;
    let report = platform.run(JobSpec::command(["sh", "-c", "echo a; echo b >&2; exit 7"])).await;
    assert_eq!((cause(&report), report.exit_code), (Some(CauseKind::Exit), Some(7)));
    assert_eq!((&platform.stdout[..], &platform.stderr[..]), (&b"a\n"[..], &b"b\n"[..]));
    assert!(report.started_at.unwrap() <= report.finished_at && report.log_end >= 2);
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    for (argv, expected) in
        [("no-such-program", CauseKind::CommandNotFound), ("/etc/passwd", CauseKind::PermissionDenied)]
    {
        let report = Platform::start(1).await.run(JobSpec::command([argv])).await;
        assert_eq!((cause(&report), report.started_at), (Some(expected), None));
    }
    let report = Platform::start(1).await.run(JobSpec::command(["true"]).working_dir("/proc/none/x")).await;
    assert_eq!(cause(&report), Some(CauseKind::FileNotFound));
}

#[tokio::test]
async fn stdin_arrives_whole_and_ends() {
    let input: Vec<u8> = (0..1 << 20).map(|n: u32| (n * 7 % 256) as u8).collect();
    let mut platform = Platform::start(1).await;
    let report = platform.run(JobSpec::command(["cat"]).stdin(input.clone())).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert!(platform.stdout == input, "{} bytes came back", platform.stdout.len());
    let empty = Platform::start(1).await.run(JobSpec::command(["cat"])).await;
    assert_eq!(empty.outcome, Outcome::Succeeded, "without stdin it is at its end");
}

#[tokio::test]
async fn a_script_runs_by_its_interpreter() {
    let mut platform = Platform::start(1).await;
    let report = platform.run(JobSpec::script("#!/bin/sh -e\nfalse\necho never")).await;
    assert_eq!((report.exit_code, platform.stdout.len()), (Some(1), 0));
    let mut platform = Platform::start(1).await;
    platform.run(JobSpec::script("print(6 * 7)").interpreter("python3")).await;
    assert_eq!(platform.stdout, b"42\n");
}

#[tokio::test]
async fn the_environment_is_the_specs_and_six_more() {
    let mut platform = Platform::start(1).await;
    platform.run(JobSpec::command(["env"]).env("GREETING", "hi").env("LANG", "xx")).await;
    let text = String::from_utf8(platform.stdout.clone()).unwrap();
    let mut names: Vec<_> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    let expected = [
        "GREETING",
        "HODEI_ATTEMPT",
        "HODEI_JOB_ID",
        "HODEI_OWNER",
        "HODEI_WORKER_ID",
        "HOME",
        "LANG",
        "PATH",
        "TMPDIR",
        "TZ",
        "USER",
    ];
    assert_eq!(names, expected);
    assert!(text.contains("LANG=xx\n"));
}

const STUBBORN: &str =
    "trap '' TERM; (setsid sh -c 'trap \"\" TERM; (sleep 60 & sleep 60) & sleep 60' &) ; sleep 60; sleep 60";

#[tokio::test]
async fn a_cancel_leaves_no_process_alive() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::shell(STUBBORN)).await;
    platform.wait_for_processes(6).await;
    platform.cancel(1, Duration::from_millis(200)).await;
    let (_, report) = platform.report().await;
    assert_eq!((report.outcome, platform.processes()), (Outcome::Cancelled, 0));
}

#[tokio::test]
async fn a_timeout_leaves_no_process_alive() {
    let mut platform = Platform::start(1).await;
    let spec =
        JobSpec::shell(STUBBORN).timeout(Duration::from_millis(300)).kill_grace(Duration::from_millis(100));
    let report = platform.run(spec).await;
    assert_eq!((report.outcome, platform.processes()), (Outcome::TimedOut, 0));
}

#[tokio::test]
async fn the_end_of_the_main_process_is_the_end_of_the_job() {
    let mut platform = Platform::start(1).await;
    let report = platform.run(JobSpec::shell("sleep 60 & echo done")).await;
    assert_eq!((report.outcome, &platform.stdout[..]), (Outcome::Succeeded, &b"done\n"[..]));
    assert_eq!(platform.processes(), 0, "its group is killed with it");
}

#[tokio::test]
async fn a_stranger_who_writes_for_ever_does_not_keep_the_job() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::shell("setsid yes & sleep 0.1; exit 0")).await;
    let (_, report) = platform.report().await;
    assert_eq!(report.outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn a_process_without_its_mark_is_killed_all_the_same() {
    let mut platform = Platform::start(1).await;
    let spec = JobSpec::shell("exec env -i sh -c 'trap \"\" TERM; while :; do sleep 1; done'");
    let spec = spec.timeout(Duration::from_millis(200)).kill_grace(Duration::from_millis(100));
    assert_eq!(platform.run(spec).await.outcome, Outcome::TimedOut);
}

#[tokio::test]
async fn a_job_that_handles_term_keeps_its_outcome_cancelled() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::shell("trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")).await;
    while platform.stdout.is_empty() {
        if let Some(FromAgent::LogBatch(batch)) = platform.next().await {
            platform.on_logs(batch).await;
        }
    }
    platform.cancel(1, Duration::from_secs(5)).await;
    let (_, report) = platform.report().await;
    assert_eq!((report.outcome, report.exit_code), (Outcome::Cancelled, Some(0)));
}

#[tokio::test]
async fn messages_twice_and_out_of_order_run_a_job_once() {
    let mut platform = Platform::start(1).await;
    platform.cancel(3, Duration::ZERO).await;
    let (number, report) = platform.report().await;
    assert_eq!((number, report.outcome, report.started_at), (3, Outcome::Cancelled, None));
    for _ in 0..3 {
        platform.assign(1, JobSpec::command(["echo", "once"])).await;
        platform.assign(3, JobSpec::command(["echo", "never"])).await;
    }
    assert_eq!(platform.report().await.0, 1);
    platform.assign(1, JobSpec::command(["echo", "again"])).await;
    platform.assign(2, JobSpec::command(["echo", "twice"])).await;
    assert_eq!(platform.report().await.0, 2);
    assert_eq!(
        platform.stdout.len() + platform.stderr.len(),
        "once\n".len(),
        "log sequences of attempt 2 begin anew"
    );
}

#[tokio::test]
async fn after_a_broken_stream_everything_unacknowledged_is_told_again() {
    let mut platform = Platform::start(2).await;
    platform.assign(1, JobSpec::shell("echo first; sleep 0.3; echo second")).await;
    platform.assign(2, JobSpec::command(["true"])).await;
    while !matches!(platform.next().await, Some(FromAgent::JobFinished(_))) {}
    let (to, from) = stream(&platform.door);
    (platform.to, platform.from) = (to, from);
    let hello = platform.welcome().await;
    assert_eq!(hello.held.len(), 2, "one runs, one ended and was not acknowledged");
    let mut numbers = [platform.report().await.0, platform.report().await.0];
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(platform.stdout, b"first\nsecond\n");
}

#[tokio::test]
async fn a_fenced_attempt_is_killed_and_silent() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::command(["sleep", "60"])).await;
    platform.wait_for_processes(1).await;
    let attempts = vec![convert::attempt_ref(platform.attempt(1))];
    platform.send(ToAgent::Fenced(v1::Fenced { attempts })).await;
    platform.wait_for_processes(0).await;
    platform.assign(2, JobSpec::command(["true"])).await;
    assert_eq!(platform.report().await.0, 2);
}

#[tokio::test]
async fn a_drained_agent_gives_back_what_waits_and_leaves() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::command(["sleep", "0.2"])).await;
    platform.assign(2, JobSpec::command(["true"])).await;
    platform.wait_for_processes(1).await;
    platform.send(ToAgent::Drain(v1::Drain {})).await;
    let mut said = Vec::new();
    while let Some(message) = platform.next().await {
        match message {
            FromAgent::GiveBack(back) => said.push(format!("back {}", back.attempts[0].attempt)),
            FromAgent::JobFinished(finished) => {
                let attempts = vec![finished.attempt.unwrap()];
                said.push(format!("finished {}", attempts[0].attempt));
                platform.send(ToAgent::ResultAck(v1::ResultAck { attempts })).await;
            }
            FromAgent::Draining(draining) => said.push(format!("draining {}", draining.empty)),
            _ => {}
        }
    }
    assert_eq!(said, ["draining false", "back 2", "finished 1", "draining true"]);
    platform.agent.await.unwrap();
}

#[tokio::test]
async fn an_agent_that_drains_while_the_platform_is_away_gives_back_when_it_returns() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::command(["sleep", "0.3"])).await;
    platform.assign(2, JobSpec::command(["true"])).await;
    platform.wait_for_processes(1).await;
    // The stream breaks; the agent is told to drain before another one opens.
    platform.break_stream().await;
    platform.stop.drain.cancel();
    platform.wait_for_processes(0).await;
    (platform.to, platform.from) = stream(&platform.door);
    let hello = platform.welcome().await;
    assert_eq!(hello.held.len(), 2, "nothing was forgotten");
    let mut said = Vec::new();
    while let Some(message) = platform.next().await {
        match message {
            FromAgent::GiveBack(back) => said.push(format!("back {}", back.attempts[0].attempt)),
            FromAgent::JobFinished(finished) => {
                let attempts = vec![finished.attempt.unwrap()];
                said.push(format!("finished {}", attempts[0].attempt));
                platform.send(ToAgent::ResultAck(v1::ResultAck { attempts })).await;
            }
            FromAgent::Draining(v1::Draining { empty: true }) => said.push("empty".into()),
            _ => {}
        }
    }
    said.sort();
    assert_eq!(said, ["back 2", "empty", "finished 1"]);
    assert_eq!(platform.agent.await.unwrap(), hodei_agent::Left::Drained);
}

#[tokio::test]
async fn an_agent_without_jobs_or_platform_leaves_when_it_is_drained() {
    let mut platform = Platform::start(1).await;
    platform.break_stream().await;
    platform.stop.drain.cancel();
    let left = SystemClock::default().timeout(Duration::from_secs(20), platform.agent).await;
    assert_eq!(left.unwrap().unwrap(), hodei_agent::Left::Gone, "nobody heard that it drained");
}

#[tokio::test]
async fn output_that_nobody_acknowledges_is_bounded_on_the_stream_and_heartbeats_go_on() {
    let mut platform = Platform::start(12).await;
    platform.again(Duration::from_millis(20)).await;
    for number in 1..=12 {
        platform.assign(number, JobSpec::command(["head", "-c", "4000000", "/dev/zero"])).await;
    }
    let (mut output, mut beats) = (0, 0);
    while beats < 40 {
        match platform.next().await.unwrap() {
            FromAgent::LogBatch(batch) => {
                output += batch.chunks.iter().map(|chunk| chunk.data.len()).sum::<usize>();
            }
            FromAgent::Heartbeat(_) => beats += 1,
            _ => {}
        }
    }
    assert!((4 << 20..=10 << 20).contains(&output), "{output} bytes without one acknowledgement");
    platform.kill().await;
}

#[tokio::test]
async fn a_killed_agent_leaves_no_process() {
    let platform = Platform::start(2).await;
    platform.assign(1, JobSpec::shell(STUBBORN)).await;
    platform.wait_for_processes(6).await;
    let marks = platform.marks.clone();
    platform.kill().await;
    let left = marked_processes(&marks.of_worker()).len();
    assert_eq!(left, 0);
}
