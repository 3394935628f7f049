//! Providers in PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::port::{ProviderConfigRepository, StoreError};
use hodei_core::provider::Provider;

use super::PostgresStore;
use super::row;

#[async_trait]
impl ProviderConfigRepository for PostgresStore {
    async fn providers(&self) -> Result<Vec<Arc<Provider>>, StoreError> {
        let query = || sqlx::query("SELECT record FROM hodei.providers ORDER BY id");
        let rows = self.database.read(query).await?;
        row::parse_all(&rows)
    }
}
