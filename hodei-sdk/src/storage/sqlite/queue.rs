//! Open jobs in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::{JobId, WorkerId};
use hodei_core::job::Job;
use hodei_core::port::{JobQueue, JobRepository, StoreError};

use super::SqliteStore;
use super::{list, row};
use crate::storage::shared::column;

#[async_trait]
impl JobQueue for SqliteStore {
    async fn open_jobs(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Arc<Job>>, StoreError> {
        let after = after.map_or(Vec::new(), |id| row::blob(id.as_uuid()));
        let query = sqlx::query(list::select_listed!(
            "WHERE ended_at IS NULL AND jobs.id > ? ORDER BY jobs.id LIMIT ?"
        ));
        let rows = self.rows(query.bind(after).bind(column::int(limit as u64))).await?;
        rows.iter().map(row::listed).collect()
    }

    async fn jobs_of_workers(&self, workers: &[WorkerId]) -> Result<Vec<Arc<Job>>, StoreError> {
        let found = self.jobs(&self.recent.assigned(workers)).await?;
        // The job may have been taken from the worker since.
        let has = |job: &Arc<Job>| job.assignment().is_some_and(|at| workers.contains(&at.worker));
        Ok(found.into_iter().flatten().filter(has).collect())
    }
}
