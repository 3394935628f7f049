//! Holds a plan against the rules that every scheduler has to keep.

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
    /// Its decisions that keep every rule, in their order.
    pub kept: Vec<PlanDecision>,
    /// Those that break one, each with the first rule that it breaks.
    pub refused: Vec<(PlanDecision, PlanFault)>,
}

/// The rule that a decision breaks, over the context and what the plan decided before it.
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
    #[error("worker {0} takes no jobs")]
    TakesNoJobs(WorkerId),
    /// The worker has as many jobs as it may have, those of the plan among them.
    #[error("worker {worker} has {taken} jobs of at most {most}")]
    NoSlot {
        /// The worker.
        worker: WorkerId,
        /// The jobs that it has, with those that the plan gave it before.
        taken: u32,
        /// Its slots, with its prefetch where the job may wait in it.
        most: u32,
    },
    /// A job of the worker is on trial, or the new one is to be, beside others that are not trusted.
    #[error(
        "worker {0} has jobs, and one of them or the new one is on trial: it was lost with its worker before"
    )]
    Suspect(WorkerId),
    /// The worker may start no more jobs in its life.
    #[error("worker {0} may take no more jobs: its lifetime has a limit")]
    Spent(WorkerId),
    /// The labels of the worker do not meet the constraints, or its provider runs no images or may not have the secrets.
    #[error("worker {0} does not suit the job: its constraints, image, secrets or resources")]
    Unsuited(WorkerId),
    /// The worker has too little left.
    #[error("worker {worker} has too little left: {field} would be {needed} of {size}")]
    Resources {
        /// The worker.
        worker: WorkerId,
        /// What it lacks.
        field: &'static str,
        /// What its jobs would take together.
        needed: u64,
        /// What it has.
        size: u64,
    },
    /// As many jobs of the concurrency key have an attempt as may.
    #[error("concurrency key `{key}` has its limit of {limit}")]
    Concurrency {
        /// The key, after its tenant.
        key: String,
        /// Its limit.
        limit: u32,
    },
    /// There is no such provider.
    #[error("provider {0} is unknown")]
    UnknownProvider(ProviderId),
    /// The provider has as many workers as it may.
    #[error("provider {provider} has its limit of {most} workers")]
    ProviderFull {
        /// The provider.
        provider: ProviderId,
        /// Its limit.
        most: u32,
    },
    /// A part of a score is infinite, or not a number: it could not be read again once it is stored.
    #[error("a part of the score is not a finite number")]
    Score,
}

/// Splits a plan into what may be carried out and what breaks a rule. Each decision is held against the context and the
/// decisions that were kept before it.
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

/// What the plan has taken so far.
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

    /// The class of a queued job that the plan has not decided about.
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
        // Only a job that takes nothing but a slot may wait in a worker: another would hold what it does not use.
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
