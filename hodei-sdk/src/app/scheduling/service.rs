//! The scheduling context: keeps it in step with the store, and turns plans into decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::{Aggregate, AggregateId, Decision};
use hodei_core::event::{DomainEvent, Envelope};
use hodei_core::id::{JobId, OrderId, ProviderId, WorkerId};
use hodei_core::job::{Job, JobInput, step};
use hodei_core::port::{ClockExt, Epoch, StoreError};
use hodei_core::scheduling::{
    CheckedPlan, PlanDecision, QueueStatus, SchedulingContext, WaitingClass, check,
};
use hodei_core::time::Timestamp;
use hodei_core::worker::{self, WorkerInput, WorkerOrder};

use crate::app::cluster::membership::Membership;
use crate::app::ports::Ports;
use crate::app::scheduling::planning::{PlanSource, Planned, Planning};

/// Keeps the context of the scheduler in step with the store, and turns plans into decisions.
#[derive(Debug)]
pub(crate) struct SchedulingService {
    ports: Arc<Ports>,
    planning: Planning,
    context: SchedulingContext,
    epoch: Epoch,
    /// Number of assignments in this epoch; numbers them.
    dispatched: u32,
    membership: Membership,
    /// Fault of the scheduler in the last round.
    fault: Option<String>,
    /// Monotonic time at which a fault was last logged.
    logged: Option<Duration>,
}

/// Shortest interval between two log lines about a faulty scheduler.
const FAULT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Jobs read in one page: few, so that a sweep of a long queue blocks no other work for long.
const PAGE_JOBS: usize = 1_000;
/// Jobs read at once with their whole spec: due ones, and ones that other daemons changed.
const MAX_WHOLE_JOBS: usize = 200;

impl SchedulingService {
    pub(crate) fn new(
        ports: Arc<Ports>,
        scheduler: PlanSource,
        epoch: Epoch,
        membership: Membership,
    ) -> Self {
        let (context, planning) = (SchedulingContext::default(), Planning::new(scheduler));
        let (dispatched, fault, logged) = (0, None, None);
        Self { ports, planning, context, epoch, dispatched, membership, fault, logged }
    }

    pub(crate) fn context(&mut self) -> &mut SchedulingContext {
        &mut self.context
    }

    /// Sets the time of the context. Everything that it observes from now on counts as seen at that time.
    pub(crate) fn tell_time(&mut self) {
        self.context.set_time(self.ports.clock.moment());
    }

    /// Reads all providers, live workers and open jobs.
    pub(crate) async fn load(&mut self) -> Result<(), StoreError> {
        self.tell_time();
        self.refresh_workers().await?;
        let mut after = None;
        loop {
            after = self.load_page(after).await?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Reads one page of the open jobs; returns the job after which the next page begins, or `None` at the end.
    pub(crate) async fn load_page(&mut self, after: Option<JobId>) -> Result<Option<JobId>, StoreError> {
        self.tell_time();
        let jobs = self.ports.store.open_jobs(after, PAGE_JOBS).await?;
        jobs.iter().for_each(|job| self.context.observe_job(job));
        Ok(if jobs.len() < PAGE_JOBS { None } else { jobs.last().map(|job| job.id()) })
    }

    /// Reads every provider and every live worker.
    pub(crate) async fn refresh_workers(&mut self) -> Result<(), StoreError> {
        self.refresh_providers().await?;
        let workers = self.ports.store.live_workers().await?;
        workers.iter().for_each(|worker| self.context.observe_worker(worker));
        let live: BTreeSet<WorkerId> = workers.iter().map(|worker| worker.id()).collect();
        let known: Vec<WorkerId> = self.context.workers().map(|info| info.worker.id()).collect();
        let gone: Vec<WorkerId> = known.into_iter().filter(|id| !live.contains(id)).collect();
        self.refresh(&[], &gone).await
    }

    /// Reads the aggregates again that hints are about. Hints carry no state, so it reads the store.
    pub(crate) async fn follow_hints(&mut self, events: &[Envelope]) -> Result<(), StoreError> {
        self.tell_time();
        let (mut announced, mut workers, mut providers) = (Vec::new(), Vec::new(), false);
        for envelope in events {
            match envelope.aggregate {
                AggregateId::Job(id) => announced.push((id, Announced::Version(envelope.version))),
                AggregateId::Provider(_) => providers = true,
                AggregateId::Secret(_) | AggregateId::Token(_) | AggregateId::Platform(_) => {}
                AggregateId::Worker(id) => match &envelope.event {
                    DomainEvent::WorkerReadyForJob { closed } => {
                        let closed =
                            closed.iter().map(|attempt| (attempt.job, Announced::Closed(attempt.number)));
                        announced.extend(closed);
                    }
                    _ => workers.push(id),
                },
            }
        }
        if providers {
            self.refresh_providers().await?;
        }
        let ids: Vec<JobId> = announced.iter().map(|(id, _)| *id).collect();
        let mut older = Vec::new();
        for ((id, announced), job) in announced.into_iter().zip(self.ports.store.recent_jobs(&ids).await?) {
            match job {
                Some(job) if announced.is_in(&job) => self.context.observe_job(&job),
                _ => older.push(id),
            }
        }
        self.refresh(&older, &workers).await
    }

    async fn refresh_providers(&mut self) -> Result<(), StoreError> {
        self.ports
            .store
            .providers()
            .await?
            .iter()
            .for_each(|provider| self.context.observe_provider(provider));
        Ok(())
    }

    /// Reads these jobs and workers again.
    pub(crate) async fn refresh(&mut self, jobs: &[JobId], workers: &[WorkerId]) -> Result<(), StoreError> {
        for some in jobs.chunks(MAX_WHOLE_JOBS) {
            for (id, job) in some.iter().zip(self.ports.store.jobs(some).await?) {
                match job {
                    Some(job) => self.context.replace_job(&job),
                    None => self.context.forget_job(*id),
                }
            }
        }
        if !workers.is_empty() {
            let found = self.ports.store.workers(workers).await?;
            for (id, worker) in workers.iter().zip(found) {
                match worker {
                    Some(worker) => self.context.observe_worker(&worker),
                    None => self.context.forget_worker(*id),
                }
            }
        }
        Ok(())
    }

    /// Observes an aggregate that the coordinator itself committed.
    pub(crate) fn observe(&mut self, stored: &Aggregate) {
        self.tell_time();
        match stored {
            Aggregate::Job(job) => self.context.observe_job(job),
            Aggregate::Worker(worker) => self.context.observe_worker(worker),
            Aggregate::Provider(provider) => self.context.observe_provider(provider),
            Aggregate::Secret(_) | Aggregate::Token(_) => {}
        }
    }

    /// Returns the decisions that time alone causes: retry waits that are over, `start_by` that passed, idle and aged
    /// workers.
    pub(crate) async fn timers(&mut self) -> Result<Vec<Decision>, StoreError> {
        self.tell_time();
        let now = self.context.now().wall;
        let due: Vec<(JobId, bool)> = self.context.due_jobs().take(MAX_WHOLE_JOBS).collect();
        let ids: Vec<JobId> = due.iter().map(|(id, _)| *id).collect();
        let mut decisions = Vec::new();
        for ((id, is_start_by), job) in due.into_iter().zip(self.ports.store.jobs(&ids).await?) {
            let Some(job) = job else {
                self.context.forget_job(id);
                continue;
            };
            let input = if is_start_by { JobInput::Expire } else { JobInput::Due };
            match step(Some(&job), input, now) {
                Ok(decision) => decisions.push(decision),
                Err(_) => self.context.observe_job(&job),
            }
        }
        for (id, input) in self.context.housekeeping() {
            let current = self.context.worker(id).map(|info| info.worker.clone());
            decisions.extend(worker::step(current.as_deref(), input, now));
        }
        Ok(decisions)
    }

    /// Runs one round: plans, and returns the plan as decisions to commit.
    pub(crate) async fn plan(&mut self) -> Result<Vec<Decision>, StoreError> {
        self.tell_time();
        let now = self.context.now().wall;
        self.fault = None;
        let mut plan = self.checked_plan(now).await?;
        if plan.iter().any(|line| matches!(line, PlanDecision::Reject { .. })) {
            // A rejection is final, and the hint of a new provider may be lost: read the providers and plan again.
            self.refresh_providers().await?;
            plan = self.checked_plan(now).await?;
        }
        let ids: Vec<JobId> = plan.iter().filter_map(job_of).collect();
        let jobs: BTreeMap<JobId, Arc<Job>> = self
            .ports
            .store
            .recent_jobs(&ids)
            .await?
            .into_iter()
            .flatten()
            .map(|job| (job.id(), job))
            .collect();
        let (mut decisions, mut taken, mut waiting) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut unfit = Vec::new();
        for line in plan {
            let (id, input) = match line {
                PlanDecision::Assign { job, worker, score } => {
                    self.dispatched += 1;
                    // The epoch makes the numbers of a later coordinator higher than those of an earlier one.
                    let dispatch = u64::from(self.epoch.0) << 32 | u64::from(self.dispatched);
                    (job, JobInput::Assign { worker, dispatch, score })
                }
                PlanDecision::Reject { job, why } => (job, JobInput::Reject { why }),
                PlanDecision::Provision { provider } => {
                    decisions.extend(self.order(provider));
                    continue;
                }
                PlanDecision::Enqueue { head, waiting: jobs, cause } => {
                    waiting.push(WaitingClass { head: Some(head), jobs, cause });
                    continue;
                }
            };
            match jobs.get(&id).map(|job| (job, step(Some(job), input.clone(), now))) {
                Some((_, Ok(decision))) => {
                    if let JobInput::Assign { worker, .. } = input {
                        *taken.entry(worker).or_insert(0) += 1;
                    }
                    decisions.push(decision);
                }
                Some((_, Err(_))) | None => unfit.push(id),
            }
        }
        self.refresh(&unfit, &[]).await?;
        for (worker, jobs) in taken {
            let current = self.context.worker(worker).map(|info| info.worker.clone());
            decisions.extend(worker::step(current.as_deref(), WorkerInput::Take(jobs), now));
        }
        self.publish_status(waiting);
        Ok(decisions)
    }

    /// Makes a plan and returns its decisions that break no rule. Reports a faulty scheduler.
    async fn checked_plan(&mut self, now: Timestamp) -> Result<Vec<PlanDecision>, StoreError> {
        let plan = match self.planning.plan(&mut self.context, now, &*self.ports.clock).await {
            Planned::Plan(plan) => plan,
            Planned::Nothing(why) => {
                self.on_fault(format!("the scheduler plans nothing: {why}"));
                return Ok(Vec::new());
            }
            Planned::Lost(why) => {
                self.on_fault(format!("the scheduler plans nothing: {why}"));
                self.load().await?;
                return Ok(Vec::new());
            }
        };
        let CheckedPlan { kept, refused } = check(&self.context, plan);
        if let Some((_, fault)) = refused.first() {
            let count = refused.len();
            self.on_fault(format!(
                "{count} decisions of the scheduler break a rule and are ignored, the first of them: {fault}"
            ));
        }
        Ok(kept)
    }

    fn on_fault(&mut self, fault: String) {
        let now = self.ports.clock.monotonic();
        if self.logged.is_none_or(|logged| now.saturating_sub(logged) >= FAULT_LOG_INTERVAL) {
            tracing::error!(%fault, "the scheduler is faulty: jobs may wait until it is fixed");
            self.logged = Some(now);
        }
        self.fault = Some(fault);
    }

    fn order(&self, provider: ProviderId) -> Option<Decision> {
        let now = self.ports.clock.now();
        let info = self.context.providers().find(|info| info.provider.id() == provider)?;
        let profile = info.provider.profile();
        let order = WorkerOrder {
            id: OrderId::from_uuid(self.ports.ids.uuid(now)),
            worker: WorkerId::from_uuid(self.ports.ids.uuid(now)),
            provider,
            owner: self.ports.store.owner(),
            capacity: profile.capacity,
            labels: profile.labels.clone(),
            lifetime: profile.lifetime,
        };
        worker::step(None, WorkerInput::Order(order), now)
    }

    fn publish_status(&self, waiting: Vec<WaitingClass>) {
        let (queued, open) = (self.context.queue_len(), self.context.open_jobs());
        self.membership.set_queue(QueueStatus {
            queued,
            open,
            waiting,
            fault: self.fault.clone(),
            ..QueueStatus::default()
        });
    }
}

/// State of a job that a hint announces.
enum Announced {
    /// It has at least this version; 0 when the hint does not say.
    Version(u64),
    /// This attempt is over.
    Closed(u32),
}

impl Announced {
    /// Whether `job` is at least as new as the announced state.
    fn is_in(&self, job: &Job) -> bool {
        match *self {
            Self::Version(version) => version > 0 && job.version() >= version,
            Self::Closed(attempt) => {
                job.attempt() > attempt || (job.attempt() == attempt && job.assignment().is_none())
            }
        }
    }
}

fn job_of(line: &PlanDecision) -> Option<JobId> {
    match line {
        PlanDecision::Assign { job, .. } | PlanDecision::Reject { job, .. } => Some(*job),
        _ => None,
    }
}
