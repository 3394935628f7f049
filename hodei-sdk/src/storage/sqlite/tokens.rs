//! Client tokens in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::access::AccessToken;
use hodei_core::id::TokenId;
use hodei_core::port::{AccessRepository, StoreError};

use super::SqliteStore;
use super::row;
use super::row::Hex;
use crate::storage::shared::column;

#[async_trait]
impl AccessRepository for SqliteStore {
    async fn tokens(&self, ids: &[TokenId]) -> Result<Vec<Option<Arc<AccessToken>>>, StoreError> {
        let wanted: Vec<Hex> = ids.iter().map(|id| Hex(id.as_uuid())).collect();
        let query =
            sqlx::query("SELECT record FROM tokens WHERE id IN (SELECT unhex(value) FROM json_each(?))");
        let rows = self.rows(query.bind(column::json(&wanted)?)).await?;
        let found: Vec<Arc<AccessToken>> = row::parse_all(&rows)?;
        Ok(column::in_order(ids, &found, AccessToken::id))
    }

    async fn list_tokens(&self) -> Result<Vec<Arc<AccessToken>>, StoreError> {
        let rows = self.listed(sqlx::query("SELECT record FROM tokens ORDER BY id")).await?;
        row::parse_all(&rows)
    }
}
