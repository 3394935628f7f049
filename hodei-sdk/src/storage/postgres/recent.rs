//! Cache of the jobs that this process read or wrote last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hodei_core::id::JobId;
use hodei_core::job::Job;
use hodei_core::time::Timestamp;

use crate::storage::shared::recent_jobs::RecentJobs;

/// Time that the end of a job is trusted without a read.
const TRUST_ENDED_FOR: Duration = Duration::from_secs(600);

/// Jobs as this process read or wrote them last. Other processes write too, so only an ended job is as good as the
/// database: it does not change until it is forgotten.
#[derive(Debug, Default)]
pub(super) struct Recent {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of broken connections when the first of the jobs was read.
    broken: u64,
    jobs: RecentJobs,
}

impl Recent {
    /// Returns the cached ones of some jobs.
    pub(super) fn seen(&self, broken: u64, ids: &[JobId]) -> Vec<Option<Arc<Job>>> {
        let mut state = self.lock(broken);
        ids.iter().map(|id| state.jobs.get(*id)).collect()
    }

    /// Returns the cached ones of some jobs that have ended, recently enough that no other process has forgotten them.
    pub(super) fn ended(&self, broken: u64, ids: &[JobId], now: Timestamp) -> Vec<Option<Arc<Job>>> {
        // A job with a later end does not count: the clock was set back since.
        let is_recent = |at: Timestamp| at <= now && now.since(at) < TRUST_ENDED_FOR;
        let ended = |job: &Arc<Job>| job.ending().is_some_and(|ending| is_recent(ending.at));
        self.seen(broken, ids).into_iter().map(|job| job.filter(ended)).collect()
    }

    /// Caches jobs that were read or written.
    pub(super) fn put<'a>(&self, broken: u64, jobs: impl IntoIterator<Item = &'a Arc<Job>>) {
        let mut state = self.lock(broken);
        jobs.into_iter().for_each(|job| state.jobs.put(job));
    }

    pub(super) fn forget(&self, jobs: &[JobId]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.iter().for_each(|id| state.jobs.forget(*id));
    }

    /// Locks the cache and drops what was read before a connection broke: the database may be another one that lacks
    /// the last changes.
    fn lock(&self, broken: u64) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.broken != broken {
            *state = State { broken, ..State::default() };
        }
        state
    }
}
