//! Checks a plan against the rules that every scheduler has to keep.

use std::collections::{BTreeMap, BTreeSet};

use super::context::{SchedulingContext, WorkerInfo};
use super::filter::suits_worker;
use super::planner::PlanDecision;
use super::queue::PlacementClass;
use super::score::Score;
use crate::id::{JobId, ProviderId, WorkerId};
use crate::job::JobResources;

/// A plan after the check.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CheckedPlan {
    /// Decisions that keep every rule, in the order of the plan.
    pub kept: Vec<PlanDecision>,
    /// Decisions that break a rule, each with the first rule that it breaks.
    pub refused: Vec<(PlanDecision, PlanFault)>,
}

/// The rule that a decision breaks, given the context and the earlier decisions of the plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanFault {
    /// The job is unknown, waits for a point in time, or has an attempt already.
    #[error("job {0} is not in the queue")]
    NotQueued(JobId),
    /// The plan decides about the job twice.
    #[error("the plan decides about job {0} twice")]
    Twice(JobId),
    /// The worker is unknown, not connected, draining or gone.
    #[error("worker {0} takes no jobs: it is unknown, not connected, draining or gone")]
    TakesNoJobs(WorkerId),
    /// The worker has as many jobs as it may have, counting those of the plan.
    #[error("worker {worker} is full: it has {taken} jobs, and the most for this one is {most}")]
    NoSlot {
        /// The worker.
        worker: WorkerId,
        /// Its jobs, with those that the plan assigned to it before.
        taken: u32,
        /// Its slots, with its prefetch where the job may wait in it.
        most: u32,
    },
    /// A job of the worker is on trial, or the new one would be on trial beside jobs that are not trusted.
    #[error(
        "worker {0} has a job on trial, or jobs beside which this one may not begin its trial: a job is on trial after it was lost with its worker"
    )]
    Suspect(WorkerId),
    /// The worker may start no more jobs in its life.
    #[error("worker {0} may take no more jobs: it reached the `max_jobs` of its lifetime")]
    Spent(WorkerId),
    /// The worker cannot meet the constraints, image, secrets or resources of the job.
    #[error("worker {0} does not suit the job: it cannot meet its constraints, image, secrets or resources")]
    Unsuited(WorkerId),
    /// The free resources of the worker are too small.
    #[error("worker {worker} has too little room: {field} would be {needed} of {size}")]
    Resources {
        /// The worker.
        worker: WorkerId,
        /// The resource that it lacks.
        field: &'static str,
        /// Amount that its jobs would take together.
        needed: u64,
        /// Amount that it has.
        size: u64,
    },
    /// The concurrency key is at its limit.
    #[error("concurrency key `{key}` is at its limit of {limit} attempts")]
    Concurrency {
        /// The key, with its tenant before it.
        key: String,
        /// Its limit.
        limit: u32,
    },
    /// The provider does not exist.
    #[error("provider {0} is unknown")]
    UnknownProvider(ProviderId),
    /// The provider has as many workers as it may have.
    #[error("provider {provider} is at its limit of {most} workers")]
    ProviderFull {
        /// The provider.
        provider: ProviderId,
        /// Its limit.
        most: u32,
    },
    /// A part of the score is infinite, or not a number: once stored it could not be read again.
    #[error("a part of the score is not a finite number")]
    Score,
}

/// Splits a plan into decisions to carry out and decisions that break a rule. Checks each decision against the context
/// and the decisions that were kept before it.
pub fn check(context: &SchedulingContext, plan: Vec<PlanDecision>) -> CheckedPlan {
    let mut ledger = Ledger {
        context,
        jobs: BTreeSet::new(),
        workers: BTreeMap::new(),
        keys: BTreeMap::new(),
        orders: BTreeMap::new(),
    };
    let mut checked = CheckedPlan { kept: Vec::with_capacity(plan.len()), refused: Vec::new() };
    for decision in plan {
        match ledger.take(&decision) {
            Ok(()) => checked.kept.push(decision),
            Err(fault) => checked.refused.push((decision, fault)),
        }
    }
    checked
}

/// The resources that the kept decisions take so far.
struct Ledger<'a> {
    context: &'a SchedulingContext,
    jobs: BTreeSet<JobId>,
    workers: BTreeMap<WorkerId, Taken>,
    keys: BTreeMap<&'a str, u32>,
    orders: BTreeMap<ProviderId, u32>,
}

#[derive(Default)]
struct Taken {
    jobs: u32,
    resources: JobResources,
    suspect: bool,
}

impl<'a> Ledger<'a> {
    fn take(&mut self, decision: &PlanDecision) -> Result<(), PlanFault> {
        match decision {
            PlanDecision::Assign { job, worker, score } => self.assign(*job, *worker, score),
            PlanDecision::Provision { provider } => self.order(*provider),
            PlanDecision::Reject { job, .. } => {
                self.class_of(*job)?;
                self.jobs.insert(*job);
                Ok(())
            }
            PlanDecision::Enqueue { head, .. } => {
                self.context.queued_class(*head).map(drop).ok_or(PlanFault::NotQueued(*head))
            }
        }
    }

    fn assign(&mut self, job: JobId, worker: WorkerId, score: &Score) -> Result<(), PlanFault> {
        let class = self.class_of(job)?;
        let info = self.context.worker(worker).filter(|info| info.takes_jobs());
        let info = info.ok_or(PlanFault::TakesNoJobs(worker))?;
        self.has_room(class, info)?;
        if let Some(concurrency) = &class.concurrency {
            let planned = self.keys.get(concurrency.key.as_str()).copied().unwrap_or(0);
            if self.context.concurrency_in_use(&concurrency.key) + planned >= concurrency.limit {
                let (key, limit) = (concurrency.key.clone(), concurrency.limit);
                return Err(PlanFault::Concurrency { key, limit });
            }
        }
        if !score.parts.iter().all(|(_, part)| part.is_finite()) {
            return Err(PlanFault::Score);
        }
        self.jobs.insert(job);
        let taken = self.workers.entry(worker).or_default();
        taken.jobs += 1;
        taken.suspect |= class.suspect;
        taken.resources = taken.resources.plus(&class.resources);
        if let Some(concurrency) = &class.concurrency {
            *self.keys.entry(&concurrency.key).or_default() += 1;
        }
        Ok(())
    }

    /// Returns the class of a queued job that the plan has not decided about yet.
    fn class_of(&self, job: JobId) -> Result<&'a PlacementClass, PlanFault> {
        if self.jobs.contains(&job) {
            return Err(PlanFault::Twice(job));
        }
        self.context.queued_class(job).ok_or(PlanFault::NotQueued(job))
    }

    fn has_room(&self, class: &PlacementClass, info: &WorkerInfo) -> Result<(), PlanFault> {
        let (worker, capacity) = (info.worker.id(), info.worker.capacity());
        let planned = self.workers.get(&worker);
        let planned_jobs = planned.map_or(0, |taken| taken.jobs);
        // Only a job that needs nothing beside a slot may wait in a worker: any other would hold unused resources.
        let may_wait = class.concurrency.is_none() && !class.suspect && class.resources.is_one_slot();
        let most = capacity.slots.saturating_add(if may_wait { capacity.prefetch } else { 0 });
        let taken = u32::try_from(info.active.len()).unwrap_or(u32::MAX).saturating_add(planned_jobs);
        let is_held = self.context.is_held(info) || planned.is_some_and(|taken| taken.suspect);
        let trusted = planned_jobs == 0 && self.context.are_trusted(info);
        if is_held || !class.may_begin_beside(taken, trusted) {
            return Err(PlanFault::Suspect(worker));
        }
        if taken >= most {
            return Err(PlanFault::NoSlot { worker, taken, most });
        }
        if info.worker.jobs_left().is_some_and(|left| left <= planned_jobs) {
            return Err(PlanFault::Spent(worker));
        }
        let provider = self.context.provider(info.worker.order().provider);
        if !suits_worker(class, info, provider.map(|info| info.provider.profile())) {
            return Err(PlanFault::Unsuited(worker));
        }
        if class.resources.is_one_slot() {
            return Ok(());
        }
        let in_use = planned.map_or(info.in_use, |taken| info.in_use.plus(&taken.resources));
        match in_use.plus(&class.resources).exceeds(&capacity.resources) {
            Some((field, needed, size)) => Err(PlanFault::Resources { worker, field, needed, size }),
            None => Ok(()),
        }
    }

    fn order(&mut self, provider: ProviderId) -> Result<(), PlanFault> {
        let info = self.context.provider(provider).ok_or(PlanFault::UnknownProvider(provider))?;
        let (ordered, most) = (self.orders.entry(provider).or_default(), info.provider.profile().max_workers);
        if info.workers + *ordered >= most {
            return Err(PlanFault::ProviderFull { provider, most });
        }
        *ordered += 1;
        Ok(())
    }
}
