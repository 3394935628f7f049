use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hodei_core::decision::Aggregate;
use hodei_core::id::{JobId, ProviderId, WorkerId};
use hodei_core::job::Job;
use hodei_core::provider::Provider;
use hodei_core::worker::Worker;
use lru::LruCache;

/// What was stored last, as it was stored. Only commits feed it, in their order, so it is never older than the
/// database.
#[derive(Debug)]
pub(super) struct Recent {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    jobs: LruCache<JobId, (Arc<Job>, usize)>,
    bytes: usize,
    /// Complete: every worker that is not terminated, every provider.
    workers: BTreeMap<WorkerId, Arc<Worker>>,
    providers: BTreeMap<ProviderId, Arc<Provider>>,
    open_jobs: usize,
}

/// Bytes of jobs kept.
const LIMIT: usize = 8 << 20;
/// What a job takes beside its spec, about.
const JOB: usize = 1024;

impl Recent {
    pub(super) fn new(workers: Vec<Worker>, providers: Vec<Provider>, open_jobs: usize) -> Self {
        let workers = workers.into_iter().map(|worker| (worker.id(), Arc::new(worker))).collect();
        let providers = providers.into_iter().map(|provider| (provider.id(), Arc::new(provider))).collect();
        let jobs = LruCache::unbounded();
        Self { state: Mutex::new(State { jobs, bytes: 0, workers, providers, open_jobs }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of some jobs that are known here.
    pub(super) fn jobs(&self, ids: &[JobId]) -> Vec<Option<Arc<Job>>> {
        let mut state = self.lock();
        ids.iter().map(|id| state.jobs.get(id).map(|(job, _)| job.clone())).collect()
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

    pub(super) fn open_jobs(&self) -> usize {
        self.lock().open_jobs
    }

    /// Takes in what a transaction stored.
    pub(super) fn stored<'a>(&self, aggregates: impl Iterator<Item = &'a Aggregate>, open_jobs: usize) {
        let mut state = self.lock();
        state.open_jobs = open_jobs;
        for aggregate in aggregates {
            match aggregate {
                Aggregate::Job(job) => state.put(job),
                Aggregate::Worker(worker) if worker.is_terminated() => {
                    state.workers.remove(&worker.id());
                }
                Aggregate::Worker(worker) => {
                    state.workers.insert(worker.id(), worker.clone());
                }
                Aggregate::Provider(provider) => {
                    state.providers.insert(provider.id(), provider.clone());
                }
            }
        }
    }

    pub(super) fn forget(&self, jobs: &[JobId]) {
        let mut state = self.lock();
        for id in jobs {
            if let Some((_, size)) = state.jobs.pop(id) {
                state.bytes -= size;
            }
        }
    }
}

impl State {
    fn put(&mut self, job: &Arc<Job>) {
        let size = JOB + job.spec().size();
        self.bytes += size;
        if let Some((_, (_, replaced))) = self.jobs.push(job.id(), (job.clone(), size)) {
            self.bytes -= replaced;
        }
        while self.bytes > LIMIT {
            let Some((_, (_, size))) = self.jobs.pop_lru() else { return };
            self.bytes -= size;
        }
    }
}
