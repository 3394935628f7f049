//! Workers in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::WorkerId;
use hodei_core::port::{StoreError, WorkerRegistry};
use hodei_core::worker::Worker;

use super::SqliteStore;
use super::row;

#[async_trait]
impl WorkerRegistry for SqliteStore {
    async fn workers(&self, ids: &[WorkerId]) -> Result<Vec<Option<Arc<Worker>>>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            found.push(match self.recent.worker(*id) {
                Some(worker) => Some(worker),
                None => {
                    let query = sqlx::query("SELECT record FROM workers WHERE id = ?");
                    let rows = self.rows(query.bind(row::blob(id.as_uuid()))).await?;
                    rows.first().map(|row| row::document(row, 0)).transpose()?.map(Arc::new)
                }
            });
        }
        Ok(found)
    }

    async fn live_workers(&self) -> Result<Vec<Arc<Worker>>, StoreError> {
        Ok(self.recent.live_workers())
    }
}
