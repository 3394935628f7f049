//! Cache of the last commits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hodei_core::decision::{Aggregate, AggregateId};
use hodei_core::id::{JobId, ProviderId, WorkerId};
use hodei_core::job::Job;
use hodei_core::port::Epoch;
use hodei_core::provider::Provider;
use hodei_core::worker::Worker;

use crate::storage::shared::presence::Presence;
use crate::storage::shared::recent_jobs::RecentJobs;

/// Recently stored state. Only commits update it, in their order, so it is never older than the database.
#[derive(Debug)]
pub(super) struct Recent {
    state: Mutex<State>,
    doubtful: AtomicBool,
}

#[derive(Debug)]
struct State {
    jobs: RecentJobs,
    /// Complete: every worker that is not terminated.
    workers: BTreeMap<WorkerId, Arc<Worker>>,
    providers: BTreeMap<ProviderId, Arc<Provider>>,
    /// Jobs of each worker.
    assigned: BTreeMap<WorkerId, BTreeSet<JobId>>,
    worker_of: BTreeMap<JobId, WorkerId>,
    open_jobs: usize,
    /// Highest job id in the database.
    highest_job: Option<JobId>,
    /// Number of the last event.
    sequence: u64,
    presence: Presence,
}

/// State of a database when it is opened.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) workers: Vec<Worker>,
    pub(super) providers: Vec<Provider>,
    pub(super) assigned: Vec<(JobId, WorkerId)>,
    pub(super) open_jobs: usize,
    pub(super) highest_job: Option<JobId>,
    pub(super) sequence: u64,
    pub(super) epochs: Vec<(String, Epoch)>,
}

impl Recent {
    pub(super) fn new(loaded: Loaded) -> Self {
        Self { state: Mutex::new(State::new(loaded, Presence::default())), doubtful: AtomicBool::new(false) }
    }

    /// Records that the outcome of a transaction is unknown: the cache may be older than the database.
    pub(super) fn doubt(&self) {
        self.doubtful.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Relaxed)
    }

    /// Replaces the cache with the state of the database.
    pub(super) fn reload(&self, loaded: Loaded) {
        let mut state = self.lock();
        let presence = std::mem::take(&mut state.presence);
        *state = State::new(loaded, presence);
        self.doubtful.store(false, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the cached ones of some jobs.
    pub(super) fn jobs(&self, ids: &[JobId]) -> Vec<Option<Arc<Job>>> {
        let mut state = self.lock();
        ids.iter().map(|id| state.jobs.get(*id)).collect()
    }

    /// Returns whether the database certainly has no job with this id. Ids begin with their creation time, so this
    /// recognizes most new jobs without a read.
    pub(super) fn is_new(&self, id: JobId) -> bool {
        Some(id) > self.lock().highest_job
    }

    pub(super) fn worker(&self, id: WorkerId) -> Option<Arc<Worker>> {
        self.lock().workers.get(&id).cloned()
    }

    pub(super) fn live_workers(&self) -> Vec<Arc<Worker>> {
        self.lock().workers.values().cloned().collect()
    }

    pub(super) fn providers(&self) -> Vec<Arc<Provider>> {
        self.lock().providers.values().cloned().collect()
    }

    /// Returns the version of an aggregate, if it is cached.
    pub(super) fn version(&self, id: AggregateId) -> Option<u64> {
        let state = self.lock();
        match id {
            AggregateId::Job(id) => state.jobs.version(id),
            AggregateId::Worker(id) => state.workers.get(&id).map(|worker| worker.version()),
            AggregateId::Provider(id) => state.providers.get(&id).map(|provider| provider.version()),
            AggregateId::Secret(_) | AggregateId::Token(_) | AggregateId::Platform(_) => None,
        }
    }

    pub(super) fn plan_epoch(&self) -> Epoch {
        self.lock().presence.plan_epoch()
    }

    /// Runs a function on the daemons and their leases.
    pub(super) fn presence<T>(&self, with: impl FnOnce(&mut Presence) -> T) -> T {
        with(&mut self.lock().presence)
    }

    /// Returns the number of open jobs, and the number of the last event.
    pub(super) fn counts(&self) -> (usize, u64) {
        let state = self.lock();
        (state.open_jobs, state.sequence)
    }

    /// Returns the jobs that are assigned to some workers, ordered by id.
    pub(super) fn assigned(&self, workers: &[WorkerId]) -> Vec<JobId> {
        let state = self.lock();
        let assigned = workers.iter().filter_map(|worker| state.assigned.get(worker));
        let mut jobs: Vec<JobId> = assigned.flatten().copied().collect();
        jobs.sort_unstable();
        jobs
    }

    /// Updates the cache with the result of a transaction.
    pub(super) fn stored<'a>(
        &self,
        aggregates: impl Iterator<Item = &'a Aggregate>,
        open_jobs: usize,
        sequence: u64,
    ) {
        let mut state = self.lock();
        (state.open_jobs, state.sequence) = (open_jobs, sequence);
        for aggregate in aggregates {
            match aggregate {
                Aggregate::Job(job) => {
                    state.highest_job = state.highest_job.max(Some(job.id()));
                    state.assign(job.id(), job.assignment().map(|assignment| assignment.worker));
                    state.jobs.put(job);
                }
                Aggregate::Worker(worker) if worker.is_terminated() => {
                    state.workers.remove(&worker.id());
                    // Its remaining jobs are taken from it one by one; a worker without jobs need not be kept.
                    state.assigned.retain(|_, jobs| !jobs.is_empty());
                }
                Aggregate::Worker(worker) => {
                    state.workers.insert(worker.id(), worker.clone());
                }
                Aggregate::Provider(provider) => {
                    state.providers.insert(provider.id(), provider.clone());
                }
                // These are rarely read, so they are not cached.
                Aggregate::Secret(_) | Aggregate::Token(_) => {}
            }
        }
    }

    /// Updates the number of the last event.
    pub(super) fn recorded(&self, sequence: u64) {
        self.lock().sequence = sequence;
    }

    pub(super) fn forget(&self, jobs: &[JobId]) {
        let mut state = self.lock();
        jobs.iter().for_each(|id| state.jobs.forget(*id));
    }
}

impl State {
    fn new(loaded: Loaded, mut presence: Presence) -> Self {
        presence.reload(loaded.epochs);
        let workers = loaded.workers.into_iter().map(|worker| (worker.id(), Arc::new(worker))).collect();
        let providers = loaded.providers.into_iter().map(|provider| (provider.id(), Arc::new(provider)));
        let mut state = Self {
            jobs: RecentJobs::default(),
            workers,
            providers: providers.collect(),
            assigned: BTreeMap::new(),
            worker_of: BTreeMap::new(),
            open_jobs: loaded.open_jobs,
            highest_job: loaded.highest_job,
            sequence: loaded.sequence,
            presence,
        };
        loaded.assigned.into_iter().for_each(|(job, worker)| state.assign(job, Some(worker)));
        state
    }

    fn assign(&mut self, job: JobId, worker: Option<WorkerId>) {
        let before = match worker {
            Some(worker) => self.worker_of.insert(job, worker),
            None => self.worker_of.remove(&job),
        };
        if let Some(jobs) = before.and_then(|before| self.assigned.get_mut(&before)) {
            jobs.remove(&job);
        }
        if let Some(worker) = worker {
            self.assigned.entry(worker).or_default().insert(job);
        }
    }
}
