//! What this process saw of jobs last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hodei_core::id::JobId;
use hodei_core::job::Job;
use hodei_core::time::Timestamp;

use crate::storage::shared::recent_jobs::RecentJobs;

/// How long the end of a job is known without a look.
const TRUSTED: Duration = Duration::from_secs(600);

/// Jobs as this process read or wrote them last. Others write too: only the end of a job, which stays as it is until the
/// job is forgotten, is as good as what the database has.
#[derive(Debug, Default)]
pub(super) struct Recent {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How often connections had broken when the first of them was seen.
    broken: u64,
    jobs: RecentJobs,
}

impl Recent {
    /// Those of some jobs that were seen.
    pub(super) fn seen(&self, broken: u64, ids: &[JobId]) -> Vec<Option<Arc<Job>>> {
        let mut state = self.lock(broken);
        ids.iter().map(|id| state.jobs.get(*id)).collect()
    }

    /// Those of some jobs that were seen to have ended, and not so long ago that others may have forgotten them.
    pub(super) fn ended(&self, broken: u64, ids: &[JobId], now: Timestamp) -> Vec<Option<Arc<Job>>> {
        // Not one that ends later than now: the clock was set back since.
        let is_recent = |at: Timestamp| at <= now && now.since(at) < TRUSTED;
        let ended = |job: &Arc<Job>| job.ending().is_some_and(|ending| is_recent(ending.at));
        self.seen(broken, ids).into_iter().map(|job| job.filter(ended)).collect()
    }

    /// Takes in what was read or written.
    pub(super) fn put<'a>(&self, broken: u64, jobs: impl IntoIterator<Item = &'a Arc<Job>>) {
        let mut state = self.lock(broken);
        jobs.into_iter().for_each(|job| state.jobs.put(job));
    }

    pub(super) fn forget(&self, jobs: &[JobId]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.iter().for_each(|id| state.jobs.forget(*id));
    }

    /// What was seen before a connection broke counts no more: the database may be another, which lacks the last of it.
    fn lock(&self, broken: u64) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.broken != broken {
            *state = State { broken, ..State::default() };
        }
        state
    }
}
