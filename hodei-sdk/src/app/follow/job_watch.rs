//! Follower of the states of one job, by its version.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::JobId;
use hodei_core::job::{Job, TenantId};
use hodei_core::port::ClockExt;

use crate::Error;
use crate::app::backoff::PollBackoff;
use crate::app::follow::watchers::Watcher;
use crate::app::jobs::queries::JobQueries;
use crate::seam::StateSource;

/// Follows the states of one job in the store of this platform.
#[derive(Debug)]
pub(crate) struct StoredStates {
    queries: JobQueries,
    tenant: TenantId,
    id: JobId,
    news: Watcher<JobId>,
    backoff: PollBackoff,
}

impl StoredStates {
    pub(crate) fn new(queries: JobQueries, tenant: TenantId, id: JobId) -> Self {
        let news = queries.job_notifier.subscribe([id], false);
        let backoff = PollBackoff::of_jobs(&*queries.ports.store);
        Self { queries, tenant, id, news, backoff }
    }
}

#[async_trait]
impl StateSource for StoredStates {
    async fn newer(&mut self, seen: u64, ends_only: bool) -> Result<Option<Arc<Job>>, Error> {
        loop {
            let job = self.queries.get(&self.tenant, self.id).await?;
            let ended = job.is_terminal();
            if job.version() > seen && (ended || !ends_only) {
                return Ok(Some(job));
            }
            if ended {
                return Ok(None);
            }
            if self.queries.ports.clock.timeout(self.backoff.next(), self.news.changed()).await.is_ok() {
                self.backoff.reset();
            }
        }
    }
}
