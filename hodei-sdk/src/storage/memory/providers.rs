//! Providers of a store in memory.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::port::{ProviderConfigRepository, StoreError};
use hodei_core::provider::Provider;

use super::MemoryStore;

#[async_trait]
impl ProviderConfigRepository for MemoryStore {
    async fn providers(&self) -> Result<Vec<Arc<Provider>>, StoreError> {
        Ok(self.lock().providers.values().cloned().collect())
    }
}
