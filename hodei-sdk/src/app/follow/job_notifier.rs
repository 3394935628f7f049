//! Notifier of job changes: wakes the waiters of a job.

use hodei_core::id::JobId;
use hodei_core::job::Job;

use crate::app::follow::watchers::{WatchList, Watcher};

/// Wakes waiters when a job changes; waiters for its end only when it ends. Clones share the waiters.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobNotifier {
    changes: WatchList<JobId>,
    ends: WatchList<JobId>,
}

impl JobNotifier {
    /// Wakes the waiters of a job whose new state this daemon stored.
    pub(crate) fn stored(&self, job: &Job) {
        self.changes.notify(job.id());
        if job.is_terminal() {
            self.ends.notify(job.id());
        }
    }

    /// Wakes the waiters of a job whose new state another daemon stored.
    pub(crate) fn heard(&self, job: JobId) {
        self.changes.notify(job);
        self.ends.notify(job);
    }

    /// Wakes all waiters, since hints of other daemons were lost.
    pub(crate) fn lost(&self) {
        self.changes.notify_all();
        self.ends.notify_all();
    }

    /// Subscribes to changes of jobs: see [`WatchList::subscribe`].
    pub(crate) fn subscribe(&self, jobs: impl IntoIterator<Item = JobId>, ends_only: bool) -> Watcher<JobId> {
        let watches = if ends_only { &self.ends } else { &self.changes };
        watches.subscribe(jobs)
    }
}
