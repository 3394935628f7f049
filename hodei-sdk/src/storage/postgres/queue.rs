//! Open jobs in PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::{JobId, WorkerId};
use hodei_core::job::Job;
use hodei_core::port::{JobQueue, StoreError};
use uuid::Uuid;

use super::PostgresStore;
use super::columns::{select_listed, select_open};
use super::row;
use crate::storage::shared::column;

#[async_trait]
impl JobQueue for PostgresStore {
    async fn open_jobs(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Arc<Job>>, StoreError> {
        // Include the nil id, which older programs accepted.
        let query = || {
            match after {
                Some(after) => sqlx::query(select_listed!("WHERE j.id > $1 ORDER BY j.id LIMIT $2"))
                    .bind(after.as_uuid()),
                None => {
                    sqlx::query(select_listed!("WHERE j.id >= $1 ORDER BY j.id LIMIT $2")).bind(Uuid::nil())
                }
            }
            .bind(column::int(limit as u64))
        };
        let rows = self.database.read(query).await?;
        rows.iter().map(row::listed).collect()
    }

    async fn jobs_of_workers(&self, workers: &[WorkerId]) -> Result<Vec<Arc<Job>>, StoreError> {
        let workers: Vec<Uuid> = workers.iter().map(hodei_core::id::WorkerId::as_uuid).collect();
        let query =
            || sqlx::query(select_open!("s.spec", "WHERE j.worker = ANY($1) ORDER BY j.id")).bind(&workers);
        self.database.read(query).await?.iter().map(row::job).collect()
    }
}
