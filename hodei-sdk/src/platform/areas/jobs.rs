//! The area of jobs.

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

    /// Returns the present state of a job.
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

    /// The same, bounded in bytes: a page may end early.
    pub(crate) async fn page(&self, filter: JobFilter) -> Result<JobPage, Error> {
        self.seam().page(self.hodei.caller(), filter).await
    }

    /// Cancels a job that waits; asks one that runs to stop, with TERM, then KILL after its grace.
    ///
    /// # Errors
    /// [`Error::Ended`] when it is over, [`Error::NotFound`], or the store's.
    pub async fn cancel(&self, id: JobId) -> Result<Arc<Job>, Error> {
        self.seam().cancel(self.hodei.caller(), id).await
    }

    /// Submits a job that ended again; the new one has `retry_of`.
    ///
    /// # Errors
    /// [`Error::StillOpen`] when it has not ended; [`Error::NotFound`], or as [`Hodei::submit`].
    pub async fn retry(&self, id: JobId) -> Result<JobHandle, Error> {
        Ok(self.hodei.job(self.seam().retry(self.hodei.caller(), id, false).await?))
    }

    /// The same, also for a job that has not ended: two of it may run at once then.
    ///
    /// # Errors
    /// [`Error::NotFound`], or as [`Hodei::submit`].
    pub async fn retry_open(&self, id: JobId) -> Result<JobHandle, Error> {
        Ok(self.hodei.job(self.seam().retry(self.hodei.caller(), id, true).await?))
    }

    /// Follows the states of a job, beginning with the present one.
    pub fn watch(&self, id: JobId) -> JobWatch {
        self.seam().watch(self.hodei.caller(), id)
    }

    /// Follows all jobs as they change: from the [`next`](crate::JobChanges::next) of earlier changes, from the beginning of
    /// the stored events with the default cursor, or from now on without one.
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

    /// Explains where a job is: the reason to wait, the workers that it ran on with their scores, and the result of each
    /// attempt.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn explain(&self, id: JobId) -> Result<SchedulingDecision, Error> {
        self.seam().explain(self.hodei.caller(), id).await
    }

    fn seam(&self) -> &dyn JobSeam {
        &*self.hodei.seams().jobs
    }
}
