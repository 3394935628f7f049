//! Jobs of a store in memory: by id, by idempotency key, and in lists.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::{Job, TenantId};
use hodei_core::port::{JobFilter, JobPage, JobRepository, StoreError};
use hodei_core::time::Timestamp;

use super::MemoryStore;

#[async_trait]
impl JobRepository for MemoryStore {
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        let state = self.lock();
        Ok(ids.iter().map(|id| state.jobs.get(id).cloned()).collect())
    }

    async fn list_jobs(&self, filter: &JobFilter) -> Result<JobPage, StoreError> {
        let mut page = self.lock().list(filter);
        page.jobs.iter_mut().for_each(|job| *job = Arc::new(job.listing()));
        Ok(page)
    }

    async fn job_by_key(&self, tenant: &TenantId, key: &str) -> Result<Option<JobId>, StoreError> {
        Ok(self.lock().keys.get(&(tenant.clone(), key.to_owned())).map(|known| known.job))
    }

    async fn ended_before(&self, before: Timestamp, limit: usize) -> Result<Vec<AttemptId>, StoreError> {
        Ok(self.lock().ended_before(before, limit))
    }
}
