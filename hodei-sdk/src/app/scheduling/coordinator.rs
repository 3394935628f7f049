//! The coordinator: reacts to hints, timers and sweeps, plans, and commits the plans.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::{AggregateId, Decision};
use hodei_core::event::channel::{JOB_QUEUE_CHANNEL, WORKER_READY_CHANNEL};
use hodei_core::event::{Actor, DomainEvent, Envelope};
use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::{Job, JobStatus};
use hodei_core::port::{BoxFuture, Delivery, Epoch, Fence, StoreError};
use hodei_core::worker::WorkerStatus;
use tokio_util::sync::CancellationToken;

use crate::app::cluster::membership::Membership;
use crate::app::commit::{CommitFailed, Committer};
use crate::app::dispatch::dispatcher::JobDispatcher;
use crate::app::hints::dispatch_requested;
use crate::app::ports::Ports;
use crate::app::scheduling::overdue::OverdueTracker;
use crate::app::scheduling::service::SchedulingService;
use crate::app::workers::lifecycle::{Closing, WorkerLifecycleManager};
use crate::app::workers::provisioning::lease_of;
use crate::app::workers::stream_registry::StreamRegistry;

/// The reactive loop: every event that may change the plan wakes it, and it plans until nothing changes.
#[derive(Debug)]
pub(crate) struct JobCoordinator {
    parts: CoordinatorParts,
    scheduling: SchedulingService,
    epoch: Epoch,
    watched: Watched,
}

/// Dependencies of a coordinator.
#[derive(Debug, Clone)]
pub(crate) struct CoordinatorParts {
    pub(crate) ports: Arc<Ports>,
    pub(crate) committer: Committer,
    pub(crate) dispatcher: JobDispatcher,
    pub(crate) lifecycle: WorkerLifecycleManager,
    pub(crate) streams: StreamRegistry,
    pub(crate) membership: Membership,
    /// Cancelled when the platform shuts down: nothing more is assigned.
    pub(crate) draining: CancellationToken,
}

/// State that the coordinator tracks beside the scheduling context.
#[derive(Debug, Default)]
struct Watched {
    /// Attempts that do not start on their worker.
    overdue_tracker: OverdueTracker,
    /// Attempts whose worker is gone, with the monotonic time since which that is known.
    stranded: BTreeMap<AttemptId, Duration>,
    /// Job after which the sweep continues; `None` starts at the beginning.
    cursor: Option<JobId>,
    /// Number of consecutive sweeps that found the coordinator idle.
    idle_sweeps: u32,
    /// Whether hints were lost: the whole queue is read again, page by page.
    catching_up: bool,
}

/// Reason for which coordinating ended.
pub(crate) enum CoordinatorEnd {
    /// Another coordinator has the lease.
    Deposed,
    /// The platform stops.
    Stopped,
}

/// Wait between two tries on a store that fails.
const STORE_RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Consecutive planning rounds before the coordinator reads hints again.
const MAX_CONSECUTIVE_ROUNDS: usize = 16;

impl JobCoordinator {
    /// Creates a coordinator that plans in an epoch.
    pub(crate) fn new(parts: CoordinatorParts, scheduling: SchedulingService, epoch: Epoch) -> Self {
        Self { parts, scheduling, epoch, watched: Watched::default() }
    }

    /// Coordinates until another takes the lease or the platform stops.
    pub(crate) async fn run(mut self) -> CoordinatorEnd {
        let mut hints = self.parts.ports.bus.subscribe(&[JOB_QUEUE_CHANNEL, WORKER_READY_CHANNEL]);
        while let Err(error) = self.scheduling.load().await {
            tracing::warn!(%error, "cannot load the queue: trying again");
            self.parts.ports.clock.sleep(STORE_RETRY_INTERVAL).await;
        }
        let mut sweep = self.next_sweep();
        while !self.parts.draining.is_cancelled() {
            if let Err(end) = self.react().await {
                return end;
            }
            if self.watched.catching_up {
                self.catch_up().await;
                while let Some(delivery) = hints.try_next() {
                    self.on_hint(delivery).await;
                }
                continue;
            }
            if self.watched.idle_sweeps > 0 && !self.is_idle() {
                // Work has arrived: return to the short interval.
                sweep = self.next_sweep();
            }
            let mut alarm = self.next_alarm();
            let changes = self.parts.membership.with(|cluster, _| cluster.changes());
            let membership = self.parts.membership.clone();
            tokio::select! {
                biased;
                () = self.parts.draining.cancelled() => return CoordinatorEnd::Stopped,
                delivery = hints.next() => {
                    let mut next = Some(delivery);
                    while let Some(delivery) = next {
                        self.on_hint(delivery).await;
                        next = hints.try_next();
                    }
                }
                () = &mut alarm => {}
                () = membership.changed(changes), if membership.is_shared() => {}
                () = &mut sweep => {
                    self.sweep().await;
                    sweep = self.next_sweep();
                }
            }
        }
        CoordinatorEnd::Stopped
    }

    /// Reads again what hints are about. A hint only says where to look.
    async fn on_hint(&mut self, delivery: Delivery) {
        let heard = match &delivery {
            Delivery::Events(events) => {
                self.note_remote_streams(events);
                self.scheduling.follow_hints(events).await
            }
            Delivery::Lagged => {
                (self.watched.catching_up, self.watched.cursor) = (true, None);
                self.refresh_active().await
            }
        };
        if let Err(error) = heard {
            tracing::warn!(%error, "could not follow a hint: the sweep finds the change");
        }
    }

    /// Records that a worker that reports ready and has no stream here has one at another daemon.
    fn note_remote_streams(&self, events: &[Envelope]) {
        if !self.parts.membership.is_shared() {
            return;
        }
        for envelope in events {
            if let (AggregateId::Worker(worker), DomainEvent::WorkerReadyForJob { .. }) =
                (envelope.aggregate, &envelope.event)
                && !self.parts.streams.is_open(worker)
            {
                self.parts.membership.with(|cluster, now| cluster.hear(worker, now));
            }
        }
    }

    /// Commits due timers, then plans, as long as either changes something.
    async fn react(&mut self) -> Result<(), CoordinatorEnd> {
        for _ in 0..MAX_CONSECUTIVE_ROUNDS {
            if self.parts.draining.is_cancelled() {
                break;
            }
            let (streams, context) = (&self.parts.streams, self.scheduling.context());
            let (lifecycle, shared) = (&self.parts.lifecycle, self.parts.membership.is_shared());
            self.parts.membership.with(|cluster, now| {
                context.set_connected(|worker| streams.is_open(worker) || cluster.has_stream(worker));
                if shared {
                    // This daemon serves its own providers, even if the last look at the leases does not show it yet.
                    let own = |id| lifecycle.providers.contains_key(&id);
                    context.set_served(|id| own(id) || cluster.is_held(&lease_of(id), now));
                }
            });
            let decisions = match self.decide().await {
                Ok(decisions) => decisions,
                Err(error) => {
                    tracing::warn!(%error, "cannot read the store: trying again");
                    self.parts.ports.clock.sleep(STORE_RETRY_INTERVAL).await;
                    continue;
                }
            };
            if decisions.is_empty() {
                break;
            }
            self.commit(decisions).await?;
        }
        self.recall_overdue().await;
        debug_assert_eq!(self.scheduling.context().sanity_check(), Ok(()));
        Ok(())
    }

    async fn decide(&mut self) -> Result<Vec<Decision>, StoreError> {
        let timers = self.scheduling.timers().await?;
        if timers.is_empty() { self.scheduling.plan().await } else { Ok(timers) }
    }

    async fn commit(&mut self, decisions: Vec<Decision>) -> Result<(), CoordinatorEnd> {
        let ids: Vec<AggregateId> = decisions.iter().map(|decision| decision.next.id()).collect();
        let outcomes =
            match self.parts.committer.commit(Fence::Plan(self.epoch), Actor::Coordinator, decisions).await {
                Ok(outcomes) => outcomes,
                Err(CommitFailed::Store(StoreError::StaleEpoch { .. })) => {
                    return Err(CoordinatorEnd::Deposed);
                }
                Err(CommitFailed::Stopped) => return Err(CoordinatorEnd::Stopped),
                Err(CommitFailed::Store(error)) => {
                    tracing::warn!(%error, "could not store a plan: planning again");
                    self.parts.ports.clock.sleep(STORE_RETRY_INTERVAL).await;
                    return Ok(());
                }
            };
        let (mut jobs, mut workers) = (Vec::new(), Vec::new());
        for (id, outcome) in ids.into_iter().zip(outcomes) {
            match (outcome, id) {
                (Ok(stored), _) => self.scheduling.observe(&stored),
                (Err(_), AggregateId::Job(id)) => jobs.push(id),
                (Err(_), AggregateId::Worker(id)) => workers.push(id),
                (Err(_), _) => {}
            }
        }
        if let Err(error) = self.scheduling.refresh(&jobs, &workers).await {
            tracing::warn!(%error, "could not read a conflict: the sweep finds it");
        }
        Ok(())
    }

    /// Recalls attempts that do not start on their worker. Those that had a slot and are not given back are closed.
    async fn recall_overdue(&mut self) {
        self.scheduling.tell_time();
        let limit = self.parts.ports.settings.dispatch_timeout;
        let overdue = self.watched.overdue_tracker.overdue(self.scheduling.context(), limit);
        let mut elsewhere = Vec::new();
        for (worker, attempts) in overdue.recall {
            if !self.parts.dispatcher.recall(worker, &attempts) && self.parts.membership.is_shared() {
                // The daemon that holds the worker's stream passes the request on.
                let (ids, clock) = (&*self.parts.ports.ids, &*self.parts.ports.clock);
                elsewhere.push(dispatch_requested(ids, clock, worker, Vec::new(), attempts));
            }
        }
        for attempt in overdue.give_up {
            let (lifecycle, store) = (self.parts.lifecycle.clone(), self.parts.ports.store.clone());
            self.parts.ports.tasks.spawn("dispatch timeout", async move {
                let Ok(jobs) = store.jobs(&[attempt.id.job]).await else { return };
                let is_unstarted =
                    |job: &Arc<Job>| job.attempt_id() == attempt.id && job.status() == JobStatus::Assigned;
                let present = jobs.into_iter().flatten().filter(is_unstarted);
                let closing = Closing::DispatchTimeout;
                lifecycle.close_attempts(attempt.worker, present.collect(), closing).await;
            });
        }
        if !elsewhere.is_empty()
            && let Err(error) = self.parts.ports.bus.publish(&elsewhere).await
        {
            tracing::debug!(%error, "could not publish hints: sweeps find the changes");
        }
    }

    /// Returns the timer of the next sweep. The interval doubles each time while nothing is open that a sweep could
    /// find.
    fn next_sweep(&mut self) -> BoxFuture<'static, ()> {
        let Some(period) = self.parts.ports.settings.sweep else { return Box::pin(std::future::pending()) };
        self.watched.idle_sweeps =
            if self.is_idle() { self.watched.idle_sweeps.saturating_add(1) } else { 0 };
        self.parts.ports.clock.sleep(
            (period * (1 << self.watched.idle_sweeps.min(5)))
                .min(period.max(self.parts.membership.idle_sweep())),
        )
    }

    fn is_idle(&mut self) -> bool {
        let context = self.scheduling.context();
        context.open_jobs() == 0 && context.workers().all(|info| info.worker.status() == WorkerStatus::Ready)
    }

    /// Returns the timer of the next deadline, after which the passage of time alone changes the plan.
    fn next_alarm(&mut self) -> BoxFuture<'static, ()> {
        self.scheduling.tell_time();
        let context = self.scheduling.context();
        let overdue = self.watched.overdue_tracker.next(context, self.parts.ports.settings.dispatch_timeout);
        match context.next_deadline().into_iter().chain(overdue).min() {
            Some(wait) => self.parts.ports.clock.sleep(wait.max(Duration::from_millis(1))),
            None => Box::pin(std::future::pending()),
        }
    }

    /// Finds changes whose hint or message was lost.
    async fn sweep(&mut self) {
        let looked = match self.refresh_active().await {
            Ok(()) => self.scheduling.load_page(self.watched.cursor).await,
            Err(error) => Err(error),
        };
        match looked {
            Ok(next) => self.watched.cursor = next,
            Err(error) => {
                return tracing::warn!(%error, "the sweep cannot read the store: the next one tries again");
            }
        }
        self.settle_stranded();
    }

    /// Reads every worker again, and every job that has an open attempt.
    async fn refresh_active(&mut self) -> Result<(), StoreError> {
        self.scheduling.refresh_workers().await?;
        let active: Vec<JobId> = self.scheduling.context().attempts().map(|attempt| attempt.id.job).collect();
        self.scheduling.refresh(&active, &[]).await
    }

    /// Reads one page of the queue after hints were lost. The caller plans between the pages.
    async fn catch_up(&mut self) {
        match self.scheduling.load_page(self.watched.cursor).await {
            Ok(next) => (self.watched.cursor, self.watched.catching_up) = (next, next.is_some()),
            Err(error) => {
                tracing::warn!(%error, "cannot read the queue: trying again");
                self.parts.ports.clock.sleep(STORE_RETRY_INTERVAL).await;
            }
        }
    }

    /// Closes attempts whose worker is gone, once the destroy timeout has passed without another daemon closing them.
    fn settle_stranded(&mut self) {
        let now = self.parts.ports.clock.monotonic();
        let stranded = self.scheduling.context().stranded();
        self.watched.stranded.retain(|attempt, _| stranded.contains(attempt));
        let mut workers = BTreeSet::new();
        for attempt in stranded {
            let since = self.watched.stranded.entry(attempt).or_insert(now);
            if now.saturating_sub(*since) >= self.parts.ports.settings.destroy_timeout {
                // If closing fails, the next try is one destroy timeout later.
                *since = now;
                workers.extend(self.scheduling.context().active(attempt.job).map(|attempt| attempt.worker));
            }
        }
        for worker in workers {
            let lifecycle = self.parts.lifecycle.clone();
            // Close all attempts of the worker at once: one that is closed after the others would count as the only
            // one, and take the whole blame.
            self.parts
                .ports
                .tasks
                .spawn("stranded attempts", async move { lifecycle.destroyed(worker).await });
        }
    }
}
