//! Jobs in PostgreSQL: by id, by idempotency key, and in lists.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::{Job, TenantId};
use hodei_core::port::{JobFilter, JobPage, JobRepository, StoreError};
use hodei_core::time::Timestamp;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::PostgresStore;
use super::{list, row, walks};
use crate::storage::shared::column;

#[async_trait]
impl JobRepository for PostgresStore {
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        self.completed(ids, self.recent.ended(self.database.broken(), ids, self.database.now())).await
    }

    async fn recent_jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        self.completed(ids, self.recent.seen(self.database.broken(), ids)).await
    }

    async fn list_jobs(&self, filter: &JobFilter) -> Result<JobPage, StoreError> {
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        let labels: std::collections::BTreeMap<_, _> = filter.labels.iter().cloned().collect();
        if labels.len() < filter.labels.iter().collect::<std::collections::BTreeSet<_>>().len() {
            // A label cannot have two values.
            return Ok(JobPage::default());
        }
        let sql = list::within_bytes(&walks::statement(list::COLUMNS, filter));
        let labels = column::json(&labels)?;
        let query = || {
            let mut query = sqlx::query(AssertSqlSafe(sql.clone()))
                .bind(filter.tenant.as_str())
                .bind(filter.after.map_or(Uuid::max(), |after| after.as_uuid()))
                .bind(column::int(limit as u64).saturating_add(1));
            if !filter.labels.is_empty() {
                query = query.bind(&labels);
            }
            for (key, value) in &filter.labels {
                query = query.bind(key).bind(value);
            }
            query
        };
        let rows = self.database.list(query).await?;
        list::page(&self.database, &rows, limit).await
    }

    async fn job_by_key(&self, tenant: &TenantId, key: &str) -> Result<Option<JobId>, StoreError> {
        let query = || {
            let query = sqlx::query("SELECT job FROM hodei.job_keys WHERE tenant = $1 AND job_key = $2");
            query.bind(tenant.as_str()).bind(key)
        };
        let rows = self.database.read(query).await?;
        rows.first().map(|found| row::get(found, 0).map(JobId::from_uuid)).transpose()
    }

    async fn ended_before(&self, before: Timestamp, limit: usize) -> Result<Vec<AttemptId>, StoreError> {
        // A job that ended before `before` was created before it, and an id of version 7 begins with the creation time.
        let millis = u64::try_from(before.as_micros() / 1000).unwrap_or(0);
        let first_after = uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid();
        let query = || {
            let sql = "SELECT id, record FROM hodei.history WHERE id < $1 AND ended_at < $2 \
                       ORDER BY id LIMIT $3";
            sqlx::query(sql).bind(first_after).bind(before.as_micros()).bind(column::int(limit as u64))
        };
        self.database.read(query).await?.iter().map(row::last_attempt).collect()
    }
}
