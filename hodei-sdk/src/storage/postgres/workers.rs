//! Workers in PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::WorkerId;
use hodei_core::port::{StoreError, WorkerRegistry};
use hodei_core::worker::Worker;
use uuid::Uuid;

use super::PostgresStore;
use super::row;
use crate::storage::shared::column;

#[async_trait]
impl WorkerRegistry for PostgresStore {
    async fn workers(&self, ids: &[WorkerId]) -> Result<Vec<Option<Arc<Worker>>>, StoreError> {
        let wanted: Vec<Uuid> = ids.iter().map(hodei_core::id::WorkerId::as_uuid).collect();
        let query = || sqlx::query("SELECT record FROM hodei.workers WHERE id = ANY($1)").bind(&wanted);
        let rows = self.database.read(query).await?;
        let stored: Vec<Arc<Worker>> = row::parse_all(&rows)?;
        Ok(column::in_order(ids, &stored, Worker::id))
    }

    async fn live_workers(&self) -> Result<Vec<Arc<Worker>>, StoreError> {
        let query = || sqlx::query("SELECT record FROM hodei.workers WHERE ended_at IS NULL ORDER BY id");
        let rows = self.database.read(query).await?;
        row::parse_all(&rows)
    }
}
