//! Workers of a store in memory.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::WorkerId;
use hodei_core::port::{StoreError, WorkerRegistry};
use hodei_core::worker::Worker;

use super::MemoryStore;

#[async_trait]
impl WorkerRegistry for MemoryStore {
    async fn workers(&self, ids: &[WorkerId]) -> Result<Vec<Option<Arc<Worker>>>, StoreError> {
        let state = self.lock();
        Ok(ids.iter().map(|id| state.workers.get(id).cloned()).collect())
    }

    async fn live_workers(&self) -> Result<Vec<Arc<Worker>>, StoreError> {
        Ok(self.lock().workers.values().filter(|worker| !worker.is_terminated()).cloned().collect())
    }
}
