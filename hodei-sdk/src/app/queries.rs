use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::AggregateId;
use hodei_core::event::Envelope;
use hodei_core::id::{JobId, WorkerId};
use hodei_core::job::{Job, TenantId};
use hodei_core::port::{Clock, ClockExt, JobFilter, JobPage, Store};
use hodei_core::worker::Worker;

use super::Watches;
use super::watch::Watcher;
use crate::Error;

/// Reads; changes nothing.
#[derive(Debug, Clone)]
pub(crate) struct JobQueries {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) versions: Watches<JobId, u64>,
}

/// A wait looks at the store this often even without a hint.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl JobQueries {
    pub(crate) async fn get(&self, tenant: &TenantId, id: JobId) -> Result<Arc<Job>, Error> {
        let job = self.store.jobs(&[id]).await?.pop().flatten();
        job.filter(|job| job.tenant() == tenant).ok_or(Error::NotFound(id))
    }

    pub(crate) async fn list(&self, filter: &JobFilter) -> Result<JobPage, Error> {
        Ok(self.store.list_jobs(filter).await?)
    }

    pub(crate) async fn history(&self, tenant: &TenantId, id: JobId) -> Result<Vec<Envelope>, Error> {
        self.get(tenant, id).await?;
        Ok(self.store.history(AggregateId::Job(id)).await?)
    }

    pub(crate) async fn feed(&self, after: u64, limit: usize) -> Result<Vec<Envelope>, Error> {
        Ok(self.store.feed(after, limit).await?)
    }

    pub(crate) async fn workers(&self) -> Result<Vec<Arc<Worker>>, Error> {
        Ok(self.store.live_workers().await?)
    }

    pub(crate) async fn worker(&self, id: WorkerId) -> Result<Option<Arc<Worker>>, Error> {
        Ok(self.store.workers(&[id]).await?.pop().flatten())
    }

    pub(crate) fn watch(&self, tenant: &TenantId, id: JobId) -> JobWatch {
        let (queries, tenant) = (self.clone(), tenant.clone());
        JobWatch { news: self.versions.subscribe(id), queries, tenant, id, seen: 0, over: false }
    }
}

/// The states of one job, as they come. It reads by the job's version, never from the feed of all.
#[derive(Debug)]
pub struct JobWatch {
    queries: JobQueries,
    tenant: TenantId,
    id: JobId,
    news: Watcher<JobId, u64>,
    seen: u64,
    over: bool,
}

impl JobWatch {
    /// The next state that is newer than the last; the first call gives the present one. States in between may
    /// be passed over. `None` after the terminal one. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such job, or the store's.
    pub async fn next(&mut self) -> Result<Option<Arc<Job>>, Error> {
        while !self.over {
            self.news.catch_up();
            let job = self.queries.get(&self.tenant, self.id).await?;
            if job.version() > self.seen {
                (self.seen, self.over) = (job.version(), job.is_terminal());
                return Ok(Some(job));
            }
            self.changed().await;
        }
        Ok(None)
    }

    /// Waits for the end of the job. Cancel safe.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn ended(&mut self) -> Result<Arc<Job>, Error> {
        loop {
            self.news.catch_up();
            let job = self.queries.get(&self.tenant, self.id).await?;
            if job.is_terminal() {
                return Ok(job);
            }
            self.changed().await;
        }
    }

    async fn changed(&mut self) {
        let waited = self.queries.clock.clone();
        if let Ok(Err(_)) = waited.timeout(LOOK_AGAIN, self.news.changed()).await {
            // The job ended and its watch was dropped with it; the store says how.
            self.news = self.queries.versions.subscribe(self.id);
        }
    }
}
