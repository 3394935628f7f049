//! Session of one agent over one stream: greeting, reconciliation, then messages until either end is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::AggregateId;
use hodei_core::event::{Actor, DomainEvent};
use hodei_core::id::{AttemptId, WorkerId};
use hodei_core::job::{Job, JobStatus};
use hodei_core::port::{ClockExt, StoreError};
use hodei_core::time::Timestamp;
use hodei_core::worker::{Worker, WorkerCapacity, WorkerState};
use hodei_proto::v1::agent_message::Body;
use hodei_proto::v1::server_message::Body as Answer;
use hodei_proto::v1::{self, AgentMessage, ServerMessage};
use hodei_proto::{PROTOCOL_VERSION, convert};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::app::hints::hint;
use crate::app::logs::persister::Lane;
use crate::app::workers::gateway::WorkerGateway;
use crate::app::workers::lifecycle::Closing;
use crate::app::workers::results::{Report, ReportKind};
use crate::app::workers::stream_registry::Terms;

/// Serves one agent over one stream.
pub(crate) struct AgentSession {
    gateway: WorkerGateway,
    worker: Arc<Worker>,
    incarnation: Uuid,
    incoming: mpsc::Receiver<AgentMessage>,
    is_private: bool,
    lane: Lane,
}

/// Reason for which a session ended, for the log.
type Ended = &'static str;

/// Time that an agent has to send its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

impl AgentSession {
    pub(crate) fn new(
        gateway: WorkerGateway,
        worker: Arc<Worker>,
        incarnation: Uuid,
        incoming: mpsc::Receiver<AgentMessage>,
        is_private: bool,
    ) -> Self {
        let lane = gateway.persister.lane(&gateway.ports.tasks, worker.id());
        Self { gateway, worker, incarnation, incoming, is_private, lane }
    }

    /// Exchanges greetings, reconciles both sides, then takes messages until either end is gone.
    pub(crate) async fn run(mut self, outgoing: mpsc::Sender<ServerMessage>) {
        let worker = self.worker.id();
        let hello = match self.gateway.ports.clock.timeout(HELLO_TIMEOUT, self.incoming.recv()).await {
            Ok(Some(AgentMessage { body: Some(Body::Hello(hello)) })) => hello,
            _ => return tracing::warn!(%worker, "closing a stream: its agent sent no hello in time"),
        };
        if hello.version > PROTOCOL_VERSION || hello.version + 1 < PROTOCOL_VERSION {
            return tracing::warn!(%worker, version = hello.version, "refused an agent: unsupported protocol version");
        }
        // Register the stream before the worker: a worker that is ready but not connected would be ordered again.
        let terms = Terms { is_private: self.is_private, version: hello.version };
        let _open = self.gateway.streams.open(worker, outgoing, terms);
        if let Err(why) = self.join(&hello).await {
            return tracing::warn!(%worker, why, "refused an agent");
        }
        let heartbeat_micros = convert::micros(self.gateway.ports.settings.heartbeat);
        let servers = self.gateway.membership.urls();
        // The network server sets it for its own streams.
        let takes_packed_logs = false;
        let welcome = v1::Welcome { version: PROTOCOL_VERSION, heartbeat_micros, servers, takes_packed_logs };
        self.gateway.streams.send(worker, Answer::Welcome(welcome));
        let ended = match self.settle(&hello).await {
            Ok(()) => self.take_messages().await,
            Err(_) => "the store cannot be read",
        };
        tracing::debug!(%worker, ended, "a stream ended");
    }

    async fn join(&mut self, hello: &v1::Hello) -> Result<(), Ended> {
        if !matches!(self.worker.state(), WorkerState::Registering) {
            return Ok(());
        }
        let resources = hello.resources.as_ref().map(convert::resources_from_wire).unwrap_or_default();
        let capacity = WorkerCapacity { slots: hello.slots.max(1), prefetch: hello.prefetch, resources };
        let joined = self
            .gateway
            .lifecycle
            .join(self.worker.id(), capacity, hello.labels.clone(), self.incarnation)
            .await
            .map_err(|_| "the store did not take its join")?;
        self.worker = joined.ok_or("its worker is terminated or unknown")?;
        if self.worker.incarnation() != Some(self.incarnation) {
            return Err("another agent already serves this worker");
        }
        if matches!(self.worker.state(), WorkerState::Registering) {
            return Err("conflicting changes of the worker: the agent tries again");
        }
        Ok(())
    }

    /// Reconciles the attempts that the agent holds with those assigned to its worker.
    async fn settle(&self, hello: &v1::Hello) -> Result<(), StoreError> {
        let worker = self.worker.id();
        let jobs = self.gateway.ports.store.jobs_of_workers(&[worker]).await?;
        let should: BTreeSet<AttemptId> = jobs.iter().map(|job| job.attempt_id()).collect();
        let held: BTreeSet<AttemptId> =
            hello.held.iter().filter_map(|held| convert::attempt_id(held.attempt.as_ref()).ok()).collect();
        let over: Vec<_> = held.difference(&should).copied().collect();
        if !over.is_empty() {
            self.gateway.dispatcher.fence(worker, &over);
        }
        let found = self.gateway.ports.store.workers(&[worker]).await?.pop().flatten();
        let present = found.as_deref().unwrap_or(&self.worker);
        self.gateway.dispatcher.redispatch(present, &jobs);
        // The agent has forgotten running attempts that it does not hold: no report of them will come.
        let forgotten =
            |job: &&Arc<Job>| job.status() == JobStatus::Running && !held.contains(&job.attempt_id());
        let forgotten: Vec<_> = jobs.iter().filter(forgotten).cloned().collect();
        let closing = Closing::Lost("the agent does not know the attempt");
        self.gateway.lifecycle.close_attempts(worker, forgotten, closing).await;
        self.publish(DomainEvent::WorkerReadyForJob { closed: Vec::new() }).await;
        Ok(())
    }

    async fn take_messages(&mut self) -> Ended {
        while let Some(message) = self.incoming.recv().await {
            let Some(body) = message.body else { continue };
            if let Err(ended) = self.take(body).await {
                return ended;
            }
        }
        "the agent is gone"
    }

    async fn take(&self, body: Body) -> Result<(), Ended> {
        const MALFORMED: Ended = "a malformed message";
        const CLOSED: Ended = "the platform stops";
        let worker = self.worker.id();
        match body {
            Body::Hello(_) => return Err("a second hello"),
            Body::PackedLogs(_) => return Err("packed output on a stream that takes none"),
            Body::Heartbeat(v1::Heartbeat { renewals, metrics }) => {
                let metrics = metrics.as_ref().map(convert::metrics_from_wire);
                self.gateway.streams.renewed(worker, renewals, metrics);
                self.publish(DomainEvent::WorkerHeartbeat { renewals }).await;
            }
            Body::JobStarted(started) => {
                let attempt = convert::attempt_id(started.attempt.as_ref()).map_err(|_| MALFORMED)?;
                let kind = ReportKind::Started(Timestamp::from_micros(started.started_at_micros));
                self.report(Report { worker, attempt, kind }).await.ok_or(CLOSED)?;
            }
            Body::LogBatch(batch) => self.lane.output(batch).await.ok_or(CLOSED)?,
            Body::JobFinished(finished) => {
                let (attempt, report) = convert::report_from_wire(finished).map_err(|_| MALFORMED)?;
                // A report queues behind the output it closes, so that a job ends only once its output is stored.
                if report.log_end > 0 && !cfg!(hodei_break = "tail") {
                    self.lane.finished(attempt, report).await.ok_or(CLOSED)?;
                } else {
                    let kind = ReportKind::Finished { report, gap: None };
                    self.report(Report { worker, attempt, kind }).await.ok_or(CLOSED)?;
                }
            }
            Body::GiveBack(back) => {
                for attempt in &back.attempts {
                    let attempt = convert::attempt_id(Some(attempt)).map_err(|_| MALFORMED)?;
                    let kind = ReportKind::GaveBack;
                    self.report(Report { worker, attempt, kind }).await.ok_or(CLOSED)?;
                }
            }
            Body::Draining(v1::Draining { empty: false }) => self.gateway.lifecycle.draining(worker).await,
            Body::Draining(v1::Draining { empty: true }) => {
                self.gateway.lifecycle.retire(worker).await;
                return Err("the agent left");
            }
        }
        Ok(())
    }

    /// Hands a report to the intake, or to the lane while the intake is full: the session reads on either way.
    async fn report(&self, report: Report) -> Option<()> {
        match self.gateway.results.try_report(report) {
            None => Some(()),
            Some(report) => self.lane.other(report).await,
        }
    }

    async fn publish(&self, event: DomainEvent) {
        publish(&self.gateway, self.worker.id(), event).await;
    }
}

async fn publish(gateway: &WorkerGateway, worker: WorkerId, event: DomainEvent) {
    let aggregate = AggregateId::Worker(worker);
    let hint = hint(&*gateway.ports.ids, &*gateway.ports.clock, aggregate, Actor::Agent, event);
    if let Err(error) = gateway.ports.bus.publish(&[hint]).await {
        tracing::debug!(%error, "could not publish a hint: sweeps find the change");
    }
}
