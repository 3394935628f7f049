//! Jobs in SQLite: by id, by idempotency key, and in lists.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::{Job, TenantId};
use hodei_core::port::{JobFilter, JobPage, JobRepository, StoreError};
use hodei_core::time::Timestamp;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::SqliteStore;
use super::row::Hex;
use super::{list, row, walks};
use crate::storage::shared::column;

/// Selects the columns of [`row::job`].
macro_rules! select_jobs {
    ($($rest:literal)*) => {
        concat!("SELECT jobs.id, tenant, record, coalesce(long_specs.spec, specs.spec) FROM jobs \
            JOIN specs ON specs.job = jobs.id LEFT JOIN long_specs ON long_specs.job = jobs.id ", $($rest),*)
    };
}

#[async_trait]
impl JobRepository for SqliteStore {
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        let mut found = self.recent.jobs(ids);
        let missing: Vec<Hex> = ids
            .iter()
            .zip(&found)
            .filter(|(_, job)| job.is_none())
            .map(|(id, _)| Hex(id.as_uuid()))
            .collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let query = sqlx::query(select_jobs!("WHERE jobs.id IN (SELECT unhex(value) FROM json_each(?))"));
        let rows = self.rows(query.bind(column::json(&missing)?)).await?;
        let mut stored = rows.iter().map(row::job).collect::<Result<Vec<_>, _>>()?;
        stored.sort_by_key(|job| job.id());
        for (id, job) in ids.iter().zip(&mut found) {
            if job.is_none() {
                *job = stored.binary_search_by_key(id, |job| job.id()).ok().map(|at| stored[at].clone());
            }
        }
        Ok(found)
    }

    async fn list_jobs(&self, filter: &JobFilter) -> Result<JobPage, StoreError> {
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        let after = filter.after.map_or(Uuid::max(), |after| after.as_uuid());
        let mut query = sqlx::query(AssertSqlSafe(walks::statement(list::SIZES, filter)))
            .bind(filter.tenant.as_str())
            .bind(row::blob(after))
            .bind(column::int(limit as u64 + 1));
        for (key, value) in &filter.labels {
            query = query.bind(key).bind(value);
        }
        let sizes = self.listed(query).await?;
        list::page(self, &sizes, limit).await
    }

    async fn job_by_key(&self, tenant: &TenantId, key: &str) -> Result<Option<JobId>, StoreError> {
        let query = sqlx::query("SELECT job FROM job_keys WHERE tenant = ? AND job_key = ?");
        let rows = self.rows(query.bind(tenant.as_str()).bind(key)).await?;
        rows.first().map(|found| row::uuid(found, 0).map(JobId::from_uuid)).transpose()
    }

    async fn ended_before(&self, before: Timestamp, limit: usize) -> Result<Vec<AttemptId>, StoreError> {
        // A job that ended before `before` was created before it, and an id of version 7 begins with the creation time.
        let millis = u64::try_from(before.as_micros() / 1000).unwrap_or(0);
        let first_after = uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid();
        let query =
            sqlx::query("SELECT id, record FROM jobs WHERE id < ? AND ended_at < ? ORDER BY id LIMIT ?");
        let query = query.bind(row::blob(first_after)).bind(before.as_micros());
        let rows = self.listed(query.bind(column::int(limit as u64))).await?;
        rows.iter().map(row::last_attempt).collect()
    }
}
