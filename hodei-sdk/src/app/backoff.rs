//! Growing waits between two reads of the store by one waiter.

use std::time::Duration;

use hodei_core::port::Store;

/// Wait after which a waiter reads the store even without a hint, since hints may be lost. It doubles with each read
/// that finds no change.
#[derive(Debug)]
pub(crate) struct PollBackoff {
    next: Duration,
    first: Duration,
    longest: Duration,
}

/// First wait for a change of a job.
const FIRST_POLL: Duration = Duration::from_secs(1);
/// Longest wait for a change of a job in a store that other daemons write too.
const MAX_SHARED_POLL: Duration = Duration::from_secs(4);
/// Longest wait for a change of a job in a store that only this process writes.
const MAX_POLL: Duration = Duration::from_secs(30);

impl PollBackoff {
    pub(crate) fn between(first: Duration, longest: Duration) -> Self {
        Self { next: first, first, longest }
    }

    /// Returns the backoff for states of jobs in this store.
    pub(crate) fn of_jobs(store: &dyn Store) -> Self {
        Self::between(FIRST_POLL, if store.is_exclusive() { MAX_POLL } else { MAX_SHARED_POLL })
    }

    pub(crate) fn next(&mut self) -> Duration {
        let next = self.next;
        self.next = (next * 2).min(self.longest);
        next
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}
