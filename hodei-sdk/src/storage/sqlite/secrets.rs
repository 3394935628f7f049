//! Sealed secrets in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::SecretId;
use hodei_core::job::TenantId;
use hodei_core::port::{SecretInfo, SecretRepository, StoreError};
use hodei_core::secret::Secret;

use super::SqliteStore;
use super::row;
use super::row::Hex;
use crate::storage::shared::column;

#[async_trait]
impl SecretRepository for SqliteStore {
    async fn secrets(&self, ids: &[SecretId]) -> Result<Vec<Option<Arc<Secret>>>, StoreError> {
        let wanted: Vec<Hex> = ids.iter().map(|id| Hex(id.as_uuid())).collect();
        let query =
            sqlx::query("SELECT record FROM secrets WHERE id IN (SELECT unhex(value) FROM json_each(?))");
        let rows = self.rows(query.bind(column::json(&wanted)?)).await?;
        let found: Vec<Arc<Secret>> = row::parse_all(&rows)?;
        Ok(column::in_order(ids, &found, Secret::id))
    }

    async fn list_secrets(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, StoreError> {
        let query = sqlx::query(
            "SELECT json_object('name', record ->> 'name', 'at', record ->> 'changed_at') FROM secrets \
             WHERE record ->> 'tenant' = ? AND record ->> 'sealed' IS NOT NULL ORDER BY record ->> 'name'",
        );
        let rows = self.listed(query.bind(tenant.as_str())).await?;
        rows.iter().map(|row| row::document(row, 0).map(column::Listed::info)).collect()
    }
}
