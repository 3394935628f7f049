//! Client tokens in PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::access::AccessToken;
use hodei_core::id::TokenId;
use hodei_core::port::{AccessRepository, StoreError};
use uuid::Uuid;

use super::PostgresStore;
use super::row;
use crate::storage::shared::column;

#[async_trait]
impl AccessRepository for PostgresStore {
    async fn tokens(&self, ids: &[TokenId]) -> Result<Vec<Option<Arc<AccessToken>>>, StoreError> {
        let wanted: Vec<Uuid> = ids.iter().map(TokenId::as_uuid).collect();
        let query = || sqlx::query("SELECT record FROM hodei.tokens WHERE id = ANY($1)").bind(&wanted);
        let rows = self.database.read(query).await?;
        let found: Vec<Arc<AccessToken>> = row::parse_all(&rows)?;
        Ok(column::in_order(ids, &found, AccessToken::id))
    }

    async fn list_tokens(&self) -> Result<Vec<Arc<AccessToken>>, StoreError> {
        let query = || sqlx::query("SELECT record FROM hodei.tokens ORDER BY id");
        let rows = self.database.read(query).await?;
        row::parse_all(&rows)
    }
}
