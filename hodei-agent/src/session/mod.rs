//! The session with the platform: one loop that owns everything the agent has.

mod handlers;
mod ledger;
mod messages;
mod spool;
mod terminated;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::id::AttemptId;
use hodei_core::job::{AttemptReport, JobResources, Labels};
use hodei_core::port::{BoxFuture, Clock, timer};
use hodei_core::time::Timestamp;
use hodei_proto::v1::AgentMessage;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::connection::{ArtifactChannel, ConnectError, Connection, Connector};
use crate::executor::{Executor, JobEvent};
use crate::probe::HostProbe;
use ledger::Ledger;
use terminated::Doubtful;

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
    /// Whether heartbeats say how the machine does.
    pub metrics: bool,
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
            metrics: false,
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
            events,
            jobs: JoinSet::new(),
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
    events: mpsc::Sender<JobEvent>,
    jobs: JoinSet<()>,
}

/// Messages that may wait to be sent; what is beyond it stays in the ledger.
const OUTBOX: usize = 64;
/// Between the first word that its jobs are stopped and the last that waits to be acknowledged.
const LAST_WORDS: Duration = Duration::from_secs(5);

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

    /// Stops what runs and waits until none of it lives.
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
        while self.jobs.join_next().await.is_some() {}
    }

    fn start_jobs(&mut self) {
        if self.draining {
            return;
        }
        while let Some(start) = self.ledger.start_next(self.agent.config.slots as usize) {
            let ledger::Start { attempt, work, stop, window } = start;
            let output = crate::executor::Output { attempt, events: self.events.clone(), window };
            let executor = self.agent.executor.clone();
            let artifacts: Arc<dyn ArtifactChannel> = self.agent.connector.clone();
            let events = self.events.clone();
            self.jobs.spawn(async move {
                let ledger::Work { spec, secrets } = work;
                let job = crate::executor::Job { attempt, spec, secrets, artifacts };
                let report: AttemptReport = executor.run(job, stop, output).await;
                // A session that is gone needs no report.
                let _ = events.send(JobEvent::Finished { attempt, report }).await;
            });
        }
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
