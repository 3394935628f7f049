//! The session with the platform: one loop that owns everything the agent has.

mod handlers;
mod ledger;
mod messages;
mod spool;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::id::AttemptId;
use hodei_core::job::{AttemptReport, JobResources, Labels};
use hodei_core::port::{BoxFuture, Clock};
use hodei_core::time::Timestamp;
use hodei_proto::v1::AgentMessage;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::timer;
use crate::connection::{ConnectError, Connection, Connector};
use crate::executor::{Executor, JobEvent};
use ledger::Ledger;

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

    /// Works until the platform drains it, refuses it, is away for the orphan timeout, or `kill` is cancelled.
    /// When it returns, no job of it runs.
    pub async fn run(self, kill: CancellationToken) {
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
            events,
            jobs: JoinSet::new(),
            agent: self,
        };
        session.drive(incoming, kill).await;
        session.end().await;
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
    events: mpsc::Sender<JobEvent>,
    jobs: JoinSet<()>,
}

/// Messages that may wait to be sent before job events are left in their channel.
const OUTBOX: usize = 1024;

impl Session {
    async fn drive(&mut self, mut incoming: mpsc::Receiver<JobEvent>, kill: CancellationToken) {
        while !self.left {
            let listening = self.outbox.len() < OUTBOX;
            tokio::select! {
                biased;
                () = kill.cancelled() => return,
                step = advance(&mut self.link, !self.outbox.is_empty()) => self.on_link(step),
                event = incoming.recv(), if listening => {
                    if let Some(event) = event { self.on_event(event) }
                    while self.outbox.len() < OUTBOX && let Ok(event) = incoming.try_recv() {
                        self.on_event(event);
                    }
                }
                () = timer(&mut self.announce) => self.announce_starts(),
                () = timer(&mut self.heartbeat) => self.beat(),
                Some(_) = self.jobs.join_next(), if !self.jobs.is_empty() => {}
            }
            self.start_jobs();
            self.leave_if_done();
        }
        self.flush().await;
    }

    /// Sends what is left to say, if the platform takes it within a second.
    async fn flush(&mut self) {
        let Link::Up { connection, .. } = &self.link else { return };
        let outbox = std::mem::take(&mut self.outbox);
        let send = async {
            for message in outbox {
                if connection.outgoing.send(message).await.is_err() {
                    break;
                }
            }
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
        while let Some(start) = self.ledger.start_next(self.agent.config.slots as usize) {
            let ledger::Start { attempt, spec, stop, window } = start;
            let output = crate::executor::Output { attempt, events: self.events.clone(), window };
            let executor = self.agent.executor.clone();
            let events = self.events.clone();
            self.jobs.spawn(async move {
                let job = crate::executor::Job { attempt, spec };
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
