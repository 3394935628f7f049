//! The agent and its session with the platform: one loop that owns all state.

mod handlers;
mod ledger;
mod messages;
mod spool;
mod supervise;
mod terminated;
mod watchdog;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::id::AttemptId;
use hodei_core::job::{JobResources, Labels};
use hodei_core::port::{BoxFuture, Clock, timer};
use hodei_core::time::Timestamp;
use hodei_proto::v1::AgentMessage;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::connection::{ArtifactChannel, ConnectError, Connection, Connector};
use crate::executor::{Executor, JobEvent};
use crate::journal::Journal;
use crate::probe::HostProbe;
use ledger::Ledger;
use terminated::Doubtful;
use watchdog::Watchdog;

/// The configuration of an agent.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Number of concurrent jobs.
    pub slots: u32,
    /// Number of jobs that may wait here beyond the slots.
    pub prefetch: u32,
    /// The resources that its jobs share.
    pub resources: JobResources,
    /// The labels of its worker.
    pub labels: Labels,
    /// How long the report of a start is delayed, so that a short job needs a single message; 10 ms.
    pub start_delay: Duration,
    /// Delay before the first reconnect; grows to eight times as much.
    pub reconnect: Duration,
    /// Time without contact to the platform after which the agent ends its jobs and itself; 30 min.
    pub orphan_timeout: Duration,
    /// The spool for output while the platform is away. Without it, a job is held up once a megabyte waits.
    pub spool: Option<SpoolConfig>,
    /// The file in which the agent notes the attempts that it starts: if it dies, its provider knows which ones never
    /// started. See [`Marks::journal`](crate::Marks::journal).
    pub journal: Option<PathBuf>,
    /// Whether heartbeats carry metrics of the machine.
    pub metrics: bool,
    /// An attempt that has not ended within its grace period plus this time after a stop is given up; 5 s.
    pub stop_margin: Duration,
    /// Seed of the jitter between reconnects, which should differ between agents.
    pub seed: u64,
}

/// Limits of the output that waits on disk for the platform.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// The directory of the spool files, which have no names.
    pub dir: PathBuf,
    /// Maximum number of bytes for all jobs together. Output beyond it is dropped, and a gap record says so.
    pub limit: u64,
}

/// Tokens that tell an agent to end.
#[derive(Debug, Clone, Default)]
pub struct AgentStop {
    /// Take no more jobs and leave when none is left. Jobs that SIGTERM ends after this, or a moment before, are given
    /// back: a reboot or a service manager sends it to the agent and to its jobs at once.
    pub drain: CancellationToken,
    /// Stop the running jobs, report them, and leave.
    pub evict: CancellationToken,
    /// Stop the running jobs and leave at once.
    pub kill: CancellationToken,
}

impl From<CancellationToken> for AgentStop {
    /// Uses the token as `kill`; the other tokens are never cancelled.
    fn from(kill: CancellationToken) -> Self {
        Self { kill, ..Self::default() }
    }
}

/// Why an agent left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It was drained, no job was left, and it told the platform.
    Drained,
    /// The platform refused it or stayed away, or the agent was told to end.
    Gone,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            slots: 1,
            prefetch: 1,
            resources: JobResources::default(),
            labels: Labels::new(),
            start_delay: Duration::from_millis(10),
            reconnect: Duration::from_millis(100),
            orphan_timeout: Duration::from_secs(30 * 60),
            spool: None,
            journal: None,
            metrics: false,
            stop_margin: Duration::from_secs(5),
            seed: 0,
        }
    }
}

/// The agent of one worker.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    connector: Arc<dyn Connector>,
    executor: Arc<dyn Executor>,
    clock: Arc<dyn Clock>,
}

impl Agent {
    /// Creates an agent. It connects in [`run`](Self::run).
    pub fn new(
        config: AgentConfig,
        connector: Arc<dyn Connector>,
        executor: Arc<dyn Executor>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { config, connector, executor, clock }
    }

    /// Runs until the platform drains the agent, refuses it or is away for the orphan timeout, or until `stop` ends it.
    /// When this returns, no job of the agent runs, unless its executor did not stop.
    pub async fn run(self, stop: impl Into<AgentStop>) -> Left {
        let stop = stop.into();
        let (events, incoming) = mpsc::channel(256);
        let now = self.clock.monotonic();
        let mut session = Session {
            ledger: Ledger::default(),
            link: Link::Waiting(self.clock.sleep(Duration::ZERO)),
            failures: 0,
            last_contact: now,
            outbox: VecDeque::new(),
            unannounced: VecDeque::new(),
            announce: None,
            heartbeat: None,
            interval: Duration::from_secs(5),
            renewals: 0,
            draining: false,
            left: false,
            retired: false,
            evicting: None,
            doubtful: Doubtful::default(),
            probe: self.config.metrics.then(HostProbe::default),
            journal: self.config.journal.clone().and_then(Journal::create),
            events,
            jobs: JoinSet::new(),
            tasks: BTreeMap::new(),
            watchdog: Watchdog::default(),
            watch: None,
            agent: self,
        };
        session.drive(incoming, stop).await;
        session.end().await;
        if session.retired { Left::Drained } else { Left::Gone }
    }
}

/// The stream to the platform.
enum Link {
    /// Waits for the timer of the next attempt to connect.
    Waiting(BoxFuture<'static, ()>),
    /// Connects.
    Connecting(BoxFuture<'static, Result<Connection, ConnectError>>),
    /// Connected; `welcomed` once the platform has answered Hello.
    Up { connection: Connection, welcomed: bool },
}

struct Session {
    agent: Agent,
    ledger: Ledger,
    link: Link,
    failures: u32,
    last_contact: Duration,
    outbox: VecDeque<AgentMessage>,
    /// Starts whose reports are delayed, in order, each with the time to send it.
    unannounced: VecDeque<(Duration, AttemptId, Timestamp)>,
    announce: Option<BoxFuture<'static, ()>>,
    heartbeat: Option<BoxFuture<'static, ()>>,
    interval: Duration,
    renewals: u64,
    draining: bool,
    left: bool,
    /// The session left because it was drained and empty.
    retired: bool,
    /// Limits the wait for acknowledgements before the session leaves.
    evicting: Option<BoxFuture<'static, ()>>,
    /// Ends of jobs by a signal, whose cause becomes clear soon.
    doubtful: Doubtful,
    probe: Option<HostProbe>,
    journal: Option<Journal>,
    events: mpsc::Sender<JobEvent>,
    jobs: JoinSet<()>,
    /// The tasks of the running attempts.
    tasks: BTreeMap<AttemptId, AbortHandle>,
    watchdog: Watchdog,
    /// Ends no later than when the watchdog is due.
    watch: Option<(Duration, BoxFuture<'static, ()>)>,
}

/// Number of queued messages at which the outbox takes no more from the ledger.
const MAX_OUTBOX_MESSAGES: usize = 64;
/// How long a leaving session waits for the ends of its attempts and for their acknowledgements.
const FINAL_ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long executors may take to stop when the session ends. Their tasks are aborted then.
const STOP_TIMEOUT: Duration = Duration::from_secs(4);
/// How long aborted executors may take to clean up.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(1);

impl Session {
    async fn drive(&mut self, mut incoming: mpsc::Receiver<JobEvent>, stop: AgentStop) {
        while !self.left {
            tokio::select! {
                biased;
                () = stop.kill.cancelled() => return,
                () = stop.drain.cancelled(), if !self.doubtful.is_terminated() => self.on_terminated(),
                () = stop.evict.cancelled(), if self.evicting.is_none() => self.on_evict(),
                () = timer(&mut self.evicting) => return,
                // Before the sources that may always be ready.
                () = timer(&mut self.heartbeat) => self.beat(),
                () = timer(&mut self.announce) => self.announce_starts(),
                () = timer(&mut self.doubtful.due) => self.settle_doubtful(),
                () = alarm(&mut self.watch) => self.on_overdue(),
                step = advance(&mut self.link, !self.outbox.is_empty()) => self.on_link(step),
                event = incoming.recv() => {
                    let mut next = event;
                    // At most one channel's worth, so that one executor cannot starve the other sources.
                    for _ in 0..incoming.max_capacity() {
                        let Some(event) = next else { break };
                        self.on_event(event);
                        next = incoming.try_recv().ok();
                    }
                    if let Some(event) = next { self.on_event(event) }
                }
                Some(_) = self.jobs.join_next(), if !self.jobs.is_empty() => {}
            }
            self.start_jobs();
            self.set_watch();
            self.fill_outbox();
            self.leave_if_done();
        }
        self.flush().await;
    }

    /// Handles an eviction: stops and reports the running jobs, starts no more.
    fn on_evict(&mut self) {
        self.on_drain();
        self.ledger.evict();
        self.evicting = Some(self.agent.clock.sleep(FINAL_ACK_TIMEOUT));
    }

    /// Sends the outbox, if the platform takes it within a second. A retired session then waits, within the same
    /// second, until the platform closes the stream: messages still in transit would be lost with this process.
    async fn flush(&mut self) {
        let retired = self.retired;
        let Link::Up { connection, .. } = &mut self.link else { return };
        let outbox = std::mem::take(&mut self.outbox);
        let send = async {
            for message in outbox {
                if connection.outgoing.send(message).await.is_err() {
                    return;
                }
            }
            while retired && connection.incoming.recv().await.is_some() {}
        };
        let mut limit = Some(self.agent.clock.sleep(Duration::from_secs(1)));
        tokio::select! { biased; () = send => {}, () = timer(&mut limit) => {} }
    }

    /// Stops the running jobs and waits for their executors, up to a limit.
    async fn end(&mut self) {
        let attempts: Vec<_> = self.ledger.held().map(|(attempt, _)| attempt).collect();
        self.ledger.close();
        for attempt in attempts {
            self.ledger.abandon(attempt);
        }
        // Events have no reader any more, and an executor must not wait for room.
        let (events, closed) = mpsc::channel(1);
        drop(closed);
        self.events = events;
        if !self.join(STOP_TIMEOUT).await {
            tracing::warn!(attempts = ?self.tasks.keys(), "executors do not stop: their processes may still run");
            self.jobs.abort_all();
            self.join(CLEANUP_TIMEOUT).await;
        }
    }

    /// Waits for the executors. Returns false if some still run after the limit.
    async fn join(&mut self, limit: Duration) -> bool {
        let mut limit = Some(self.agent.clock.sleep(limit));
        loop {
            tokio::select! {
                biased;
                joined = self.jobs.join_next() => if joined.is_none() { return true },
                () = timer(&mut limit) => return false,
            }
        }
    }

    fn start_jobs(&mut self) {
        if self.draining {
            return;
        }
        while let Some(start) = self.ledger.start_next(self.agent.config.slots as usize) {
            let ledger::Start { attempt, work, stop, window, process } = start;
            if let Some(journal) = &mut self.journal {
                journal.note(attempt, self.ledger.begun());
            }
            self.watchdog.begin(attempt, &work.spec, process.clone(), self.agent.clock.monotonic());
            let output = crate::executor::Output { attempt, events: self.events.clone(), window, process };
            let executor = self.agent.executor.clone();
            let artifacts: Arc<dyn ArtifactChannel> = self.agent.connector.clone();
            let (events, now) = (self.events.clone(), self.agent.clock.now());
            let task = self.jobs.spawn(async move {
                let ledger::Work { spec, secrets } = work;
                let job = crate::executor::Job { attempt, spec, secrets, artifacts };
                let report = supervise::run(&*executor, job, stop, output, now).await;
                // The session may have ended, which is no error.
                let _ = events.send(JobEvent::Finished { attempt, report }).await;
            });
            self.tasks.insert(attempt, task);
        }
    }
}

/// Waits for the alarm, forever if there is none. Cancel safe.
async fn alarm(watch: &mut Option<(Duration, BoxFuture<'static, ()>)>) {
    match watch {
        Some((_, sleep)) => {
            sleep.as_mut().await;
            *watch = None;
        }
        None => std::future::pending().await,
    }
}

/// An event of the link.
enum LinkStep {
    Due,
    Connected(Result<Connection, ConnectError>),
    Received(Option<Box<hodei_proto::v1::ServerMessage>>),
    Room,
}

/// Waits for the next event of the link. Cancel safe: no message is taken out of a channel before it is returned.
async fn advance(link: &mut Link, has_output: bool) -> LinkStep {
    match link {
        Link::Waiting(sleep) => {
            sleep.await;
            LinkStep::Due
        }
        Link::Connecting(connecting) => LinkStep::Connected(connecting.await),
        Link::Up { connection, .. } => {
            tokio::select! {
                biased;
                message = connection.incoming.recv() => LinkStep::Received(message.map(Box::new)),
                slot = connection.outgoing.reserve(), if has_output => match slot {
                    Ok(_) => LinkStep::Room,
                    Err(_) => LinkStep::Received(None),
                },
            }
        }
    }
}
