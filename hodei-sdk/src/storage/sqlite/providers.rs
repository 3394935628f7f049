//! Providers in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::port::{ProviderConfigRepository, StoreError};
use hodei_core::provider::Provider;

use super::SqliteStore;

#[async_trait]
impl ProviderConfigRepository for SqliteStore {
    async fn providers(&self) -> Result<Vec<Arc<Provider>>, StoreError> {
        Ok(self.recent.providers())
    }
}
