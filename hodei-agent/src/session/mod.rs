//! The session with the platform: one loop that owns everything the agent has.

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

/// How an agent is set up.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Jobs at once.
    pub slots: u32,
    /// Jobs that may wait here beyond the slots.
    pub prefetch: u32,
    /// What its jobs share.
    pub resources: JobResources,
    /// What it says of itself.
    pub labels: Labels,
    /// How long a start is held back, so that a short job is told in one message; 10 ms.
    pub start_delay: Duration,
    /// Between attempts to connect; grows to eight times as much.
    pub reconnect: Duration,
    /// Without contact for this long, it ends its jobs and itself; 30 min.
    pub orphan_timeout: Duration,
    /// Where output waits while the platform is away; without it a job is held up once a megabyte waits.
    pub spool: Option<SpoolConfig>,
    /// Where it notes which attempts it begins: should it die, its provider knows which it had not. See
    /// [`Marks::journal`](crate::Marks::journal).
    pub journal: Option<PathBuf>,
    /// Whether heartbeats say how the machine does.
    pub metrics: bool,
    /// An attempt that is not over within its grace and this after a stop is given up; 5 s.
    pub stop_margin: Duration,
    /// Makes the waits between attempts to connect differ from those of other agents.
    pub seed: u64,
}

/// Where and how much output may wait for the platform on disk.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// In files without names there.
    pub dir: PathBuf,
    /// Bytes for all jobs together. What is beyond it is dropped, and a gap record says so.
    pub limit: u64,
}

/// How an agent is told to end.
#[derive(Debug, Clone, Default)]
pub struct AgentStop {
    /// Take nothing more and leave when nothing is left. Jobs that SIGTERM ends by then, or a moment before, are given
    /// back: a reboot and a service manager send it to the agent and to its jobs at once.
    pub drain: CancellationToken,
    /// Stop what runs, report it, and leave.
    pub evict: CancellationToken,
    /// Stop what runs and leave at once.
    pub kill: CancellationToken,
}

impl From<CancellationToken> for AgentStop {
    /// Nothing but a token to kill it by.
    fn from(kill: CancellationToken) -> Self {
        Self { kill, ..Self::default() }
    }
}

/// Why an agent left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It was drained and had nothing left; the platform knows.
    Drained,
    /// The platform did not want it, did not come back, or the agent was told to go.
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
    /// An agent that is not connected yet.
    pub fn new(
        config: AgentConfig,
        connector: Arc<dyn Connector>,
        executor: Arc<dyn Executor>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { config, connector, executor, clock }
    }

    /// Works until the platform drains it, refuses it, is away for the orphan timeout, or it is told to stop.
    /// When it returns, no job of it runs.
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
    /// Will be tried when the timer ends.
    Waiting(BoxFuture<'static, ()>),
    /// Is being tried.
    Connecting(BoxFuture<'static, Result<Connection, ConnectError>>),
    /// Is there; `welcomed` once the platform answered.
    Up { connection: Connection, welcomed: bool },
}

struct Session {
    agent: Agent,
    ledger: Ledger,
    link: Link,
    failures: u32,
    last_contact: Duration,
    outbox: VecDeque<AgentMessage>,
    /// Starts that are held back, in order, with when to tell.
    unannounced: VecDeque<(Duration, AttemptId, Timestamp)>,
    announce: Option<BoxFuture<'static, ()>>,
    heartbeat: Option<BoxFuture<'static, ()>>,
    interval: Duration,
    renewals: u64,
    draining: bool,
    left: bool,
    /// It left because nothing was left to do.
    retired: bool,
    /// Ends the wait for what was stopped to be acknowledged.
    evicting: Option<BoxFuture<'static, ()>>,
    /// Ends whose cause is seen soon.
    doubtful: Doubtful,
    probe: Option<HostProbe>,
    journal: Option<Journal>,
    events: mpsc::Sender<JobEvent>,
    jobs: JoinSet<()>,
    /// The tasks of the attempts that run.
    tasks: BTreeMap<AttemptId, AbortHandle>,
    watchdog: Watchdog,
    /// Ends when the watchdog has something to do, at the latest.
    watch: Option<(Duration, BoxFuture<'static, ()>)>,
}

/// Messages that may wait to be sent; what is beyond it stays in the ledger.
const OUTBOX: usize = 64;
/// Between the first word that its jobs are stopped and the last that waits to be acknowledged.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Between the kill of its jobs and the end of an agent; executors that take longer are dropped where they wait.
const END: Duration = Duration::from_secs(4);
/// For executors that were dropped to put in order what they hold.
const DROP: Duration = Duration::from_secs(1);

impl Session {
    async fn drive(&mut self, mut incoming: mpsc::Receiver<JobEvent>, stop: AgentStop) {
        while !self.left {
            tokio::select! {
                biased;
                () = stop.kill.cancelled() => return,
                () = stop.drain.cancelled(), if !self.doubtful.is_terminated() => self.on_terminated(),
                () = stop.evict.cancelled(), if self.evicting.is_none() => self.on_evict(),
                () = timer(&mut self.evicting) => return,
                // Before what may always be ready.
                () = timer(&mut self.heartbeat) => self.beat(),
                () = timer(&mut self.announce) => self.announce_starts(),
                () = timer(&mut self.doubtful.due) => self.settle_doubtful(),
                () = alarm(&mut self.watch) => self.on_overdue(),
                step = advance(&mut self.link, !self.outbox.is_empty()) => self.on_link(step),
                event = incoming.recv() => {
                    let mut next = event;
                    // As many as there may be, so that one executor cannot keep the loop from the rest.
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
            self.say();
            self.leave_if_done();
        }
        self.flush().await;
    }

    /// Told to go: what runs is stopped and reported, nothing more is started.
    fn on_evict(&mut self) {
        self.on_drain();
        self.ledger.evict();
        self.evicting = Some(self.agent.clock.sleep(LAST_WORDS));
    }

    /// Sends what is left to say, if the platform takes it within a second. After the last word the platform ends the
    /// stream: until then it may still be on its way, and would be lost with this process.
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

    /// Stops what runs and waits until none of it lives, or its executor has had its time.
    async fn end(&mut self) {
        let attempts: Vec<_> = self.ledger.held().map(|(attempt, _)| attempt).collect();
        self.ledger.close();
        for attempt in attempts {
            self.ledger.abandon(attempt);
        }
        // Nobody reads the events any more, and an executor must not wait for room.
        let (events, closed) = mpsc::channel(1);
        drop(closed);
        self.events = events;
        if !self.join(END).await {
            tracing::warn!(attempts = ?self.tasks.keys(), "executors do not stop: what they run may live on");
            self.jobs.abort_all();
            self.join(DROP).await;
        }
    }

    /// Waits for the executors; false when some are still at it after the limit.
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
                // A session that is gone needs no report.
                let _ = events.send(JobEvent::Finished { attempt, report }).await;
            });
            self.tasks.insert(attempt, task);
        }
    }
}

/// Ends when the alarm does; pending without one. Cancel safe.
async fn alarm(watch: &mut Option<(Duration, BoxFuture<'static, ()>)>) {
    match watch {
        Some((_, sleep)) => {
            sleep.as_mut().await;
            *watch = None;
        }
        None => std::future::pending().await,
    }
}

/// What the link did.
enum LinkStep {
    Due,
    Connected(Result<Connection, ConnectError>),
    Received(Option<Box<hodei_proto::v1::ServerMessage>>),
    Room,
}

/// The next thing that happens on the link. Cancel safe: nothing is taken out of a channel before it is returned.
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
