//! Open jobs of a store in memory.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::{JobId, WorkerId};
use hodei_core::job::Job;
use hodei_core::port::{JobQueue, StoreError};

use super::MemoryStore;

#[async_trait]
impl JobQueue for MemoryStore {
    async fn open_jobs(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Arc<Job>>, StoreError> {
        let state = self.lock();
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let ids = state.open.range((from, std::ops::Bound::Unbounded)).take(limit);
        Ok(ids.filter_map(|id| state.jobs.get(id)).map(|job| Arc::new(job.listing())).collect())
    }

    async fn jobs_of_workers(&self, workers: &[WorkerId]) -> Result<Vec<Arc<Job>>, StoreError> {
        let state = self.lock();
        let ids = workers.iter().filter_map(|worker| state.assigned.get(worker)).flatten();
        let mut jobs: Vec<Arc<Job>> = ids.filter_map(|id| state.jobs.get(id).cloned()).collect();
        jobs.sort_by_key(|job| job.id());
        Ok(jobs)
    }
}
