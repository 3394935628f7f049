use hodei_core::id::JobId;
use hodei_core::job::Job;

use crate::app::follow::watchers::{WatchList, Watcher};

/// Tells whoever waits for a job that it changed: those who wait for its end, only of that. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobNotifier {
    changes: WatchList<JobId>,
    ends: WatchList<JobId>,
}

impl JobNotifier {
    /// A state was stored here.
    pub(crate) fn stored(&self, job: &Job) {
        self.changes.notify(job.id());
        if job.is_terminal() {
            self.ends.notify(job.id());
        }
    }

    /// Another daemon stored a state.
    pub(crate) fn heard(&self, job: JobId) {
        self.changes.notify(job);
        self.ends.notify(job);
    }

    /// What other daemons stored was not heard of.
    pub(crate) fn lost(&self) {
        self.changes.notify_all();
        self.ends.notify_all();
    }

    /// Waits for news of some jobs: see [`WatchList::subscribe`].
    pub(crate) fn subscribe(&self, jobs: impl IntoIterator<Item = JobId>, ends_only: bool) -> Watcher<JobId> {
        let watches = if ends_only { &self.ends } else { &self.changes };
        watches.subscribe(jobs)
    }
}
