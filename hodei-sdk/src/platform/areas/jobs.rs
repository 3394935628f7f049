//! The area of jobs: reads, cancel, retry, and the streams of states, output and completions.

use std::sync::Arc;

use hodei_core::event::Envelope;
use hodei_core::id::JobId;
use hodei_core::job::Job;
use hodei_core::port::{FeedCursor, JobFilter, JobPage};
use hodei_core::scheduling::SchedulingDecision;

use crate::error::Error;
use crate::seam::{JobCompletions, JobFeed, JobLogs, JobSeam, JobWatch};
use crate::{Hodei, JobHandle};

/// The jobs of a platform: see [`Hodei::jobs`].
#[derive(Debug, Clone)]
pub struct Jobs {
    hodei: Hodei,
}

impl Jobs {
    pub(in crate::platform) fn new(hodei: &Hodei) -> Self {
        Self { hodei: hodei.clone() }
    }

    /// Returns the current state of a job.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn get(&self, id: JobId) -> Result<Arc<Job>, Error> {
        self.seam().get(self.hodei.caller(), id).await
    }

    /// Returns one page of jobs, the newest first. A `limit` of 0 is 100.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self, filter: JobFilter) -> Result<JobPage, Error> {
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        let (mut jobs, mut after) = (Vec::new(), filter.after);
        loop {
            let rest = JobFilter { after, limit: limit - jobs.len(), ..filter.clone() };
            let page = self.page(rest).await?;
            jobs.extend(page.jobs);
            if page.next.is_none() || jobs.len() >= limit {
                return Ok(JobPage { jobs, next: page.next });
            }
            after = page.next;
        }
    }

    /// Like [`list`](Self::list), but bounded in bytes: a page may end before the limit.
    pub(crate) async fn page(&self, filter: JobFilter) -> Result<JobPage, Error> {
        self.seam().page(self.hodei.caller(), filter).await
    }

    /// Cancels a queued job, or stops a running one: with TERM, then with KILL after its grace period.
    ///
    /// # Errors
    /// [`Error::Ended`] if it has ended, [`Error::NotFound`], or the store's.
    pub async fn cancel(&self, id: JobId) -> Result<Arc<Job>, Error> {
        self.seam().cancel(self.hodei.caller(), id).await
    }

    /// Submits an ended job again, as a new job whose `retry_of` is this one.
    ///
    /// # Errors
    /// [`Error::StillOpen`] if it has not ended; [`Error::NotFound`], or as [`Hodei::submit`].
    pub async fn retry(&self, id: JobId) -> Result<JobHandle, Error> {
        self.repeat(id, false).await
    }

    /// Like [`retry`](Self::retry), also for a job that has not ended: both may then run at once.
    ///
    /// # Errors
    /// [`Error::NotFound`], or as [`Hodei::submit`].
    pub async fn retry_open(&self, id: JobId) -> Result<JobHandle, Error> {
        self.repeat(id, true).await
    }

    /// Follows the states of a job, beginning with the current one.
    pub fn watch(&self, id: JobId) -> JobWatch {
        self.seam().watch(self.hodei.caller(), id)
    }

    /// Follows all jobs as they change: from the [`next`](crate::JobChanges::next) of earlier changes, from the
    /// beginning of the stored events with the default cursor, or from now on with `None`.
    pub fn watch_all(&self, from: Option<FeedCursor>) -> JobFeed {
        self.seam().watch_all(self.hodei.caller(), from)
    }

    /// Returns each of some jobs once it has ended.
    pub fn completions(&self, ids: Vec<JobId>) -> JobCompletions {
        self.seam().completions(self.hodei.caller(), ids)
    }

    /// Follows the output of a job from its beginning.
    pub fn logs(&self, id: JobId) -> JobLogs {
        self.seam().logs(self.hodei.caller(), id)
    }

    /// Returns every event of a job, oldest first.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn history(&self, id: JobId) -> Result<Vec<Envelope>, Error> {
        self.seam().history(self.hodei.caller(), id).await
    }

    /// Explains the state of a job: the reason for which it waits, the workers that it ran on with their scores, and
    /// the result of each attempt.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn explain(&self, id: JobId) -> Result<SchedulingDecision, Error> {
        self.seam().explain(self.hodei.caller(), id).await
    }

    async fn repeat(&self, id: JobId, force: bool) -> Result<JobHandle, Error> {
        let new = self.seam().retry(self.hodei.caller(), id, force).await?;
        Ok(JobHandle { is_new: true, ..self.hodei.job(new) })
    }

    fn seam(&self) -> &dyn JobSeam {
        &*self.hodei.seams().jobs
    }
}
