//! Sealed secrets in PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::SecretId;
use hodei_core::job::TenantId;
use hodei_core::port::{SecretInfo, SecretRepository, StoreError};
use hodei_core::secret::Secret;
use uuid::Uuid;

use super::PostgresStore;
use super::row;
use crate::storage::shared::column;

#[async_trait]
impl SecretRepository for PostgresStore {
    async fn secrets(&self, ids: &[SecretId]) -> Result<Vec<Option<Arc<Secret>>>, StoreError> {
        let wanted: Vec<Uuid> = ids.iter().map(SecretId::as_uuid).collect();
        let query = || sqlx::query("SELECT record FROM hodei.secrets WHERE id = ANY($1)").bind(&wanted);
        let rows = self.database.read(query).await?;
        let found: Vec<Arc<Secret>> = row::parse_all(&rows)?;
        Ok(column::in_order(ids, &found, Secret::id))
    }

    async fn list_secrets(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, StoreError> {
        let query = || {
            let sql = "SELECT json_build_object('name', r ->> 'name', 'at', (r ->> 'changed_at')::bigint)::text \
                       FROM (SELECT record::json r FROM hodei.secrets) secrets \
                       WHERE r ->> 'tenant' = $1 AND r ->> 'sealed' IS NOT NULL ORDER BY r ->> 'name' COLLATE \"C\"";
            sqlx::query(sql).bind(tenant.as_str())
        };
        let rows = self.database.read(query).await?;
        rows.iter().map(|found| row::document(found, 0).map(column::Listed::info)).collect()
    }
}
