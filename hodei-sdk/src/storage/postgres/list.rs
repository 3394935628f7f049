//! Lists of jobs: long parts of specs stay in the database, and pages have a size limit.

use std::sync::Arc;

use hodei_core::id::JobId;
use hodei_core::job::{JobRecord, JobSpec, TenantId};
use hodei_core::port::{JobPage, StoreError};
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::Database;
use super::row;
use crate::storage::shared::pages::LIST_PAGE_BYTES;

/// Columns that a list reads. A spec of an earlier version has no short form; if it is long, it is read in a query of
/// its own.
pub(super) const COLUMNS: &str = "SELECT j.id, j.tenant, j.record, \
    coalesce(s.listing, CASE WHEN octet_length(s.spec) <= 65536 THEN s.spec END) AS spec FROM ";

/// Limits a list of [`COLUMNS`] to its first rows with at most [`LIST_PAGE_BYTES`] together, newest first, each with
/// the number of rows of the list.
pub(super) fn within_bytes(list: &str) -> String {
    format!(
        "SELECT id, tenant, record, spec, count FROM (SELECT *, count(*) OVER () AS count, \
         sum(octet_length(record) + coalesce(octet_length(spec), 0)) OVER (ORDER BY id DESC) AS bytes, \
         row_number() OVER (ORDER BY id DESC) AS number FROM ({list}) list) sized \
         WHERE bytes <= {LIST_PAGE_BYTES} OR number = 1 ORDER BY id DESC"
    )
}

/// Builds a page from these rows.
pub(super) async fn page(database: &Database, rows: &[PgRow], limit: usize) -> Result<JobPage, StoreError> {
    let mut jobs = Vec::with_capacity(rows.len().min(limit));
    for found in rows.iter().take(limit) {
        let id: Uuid = row::get(found, 0)?;
        let spec: JobSpec = match row::get::<Option<&str>>(found, 3)? {
            Some(text) => crate::storage::shared::column::parse(text)?,
            None => {
                let sql = "SELECT spec FROM hodei.specs WHERE job = $1";
                let rows = database.read(|| sqlx::query(sql).bind(id)).await?;
                // The job was forgotten in the meantime.
                let Some(found) = rows.first() else { continue };
                row::document(found, 0)?
            }
        };
        let (record, tenant): (JobRecord, _) = (row::document(found, 2)?, row::get::<&str>(found, 1)?);
        let spec = Arc::new(spec.into_listing());
        jobs.push(Arc::new(record.restore(JobId::from_uuid(id), TenantId::new(tenant), spec)));
    }
    let count = rows.first().map_or(Ok(0), |found| row::get::<i64>(found, 4))?;
    let last = rows.iter().take(limit).last();
    let last = last.filter(|_| count.unsigned_abs() as usize > rows.len().min(limit));
    let next = last.map(|last| row::get(last, 0).map(JobId::from_uuid)).transpose()?;
    Ok(JobPage { jobs, next })
}
