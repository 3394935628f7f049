//! Lists of jobs: long parts of specs stay in the database, and pages have a size limit.

use hodei_core::id::JobId;
use hodei_core::port::{JobPage, StoreError};
use sqlx::Row;
use uuid::Uuid;

use super::SqliteStore;
use super::errors::store_error;
use super::row::{self, Hex};
use crate::batch::fitting;
use crate::storage::shared::column;
use crate::storage::shared::pages::LIST_PAGE_BYTES;

/// Selects the jobs of a list with their sizes, without reading the jobs.
pub(super) const SIZES: &str = "SELECT jobs.id, octet_length(record) + octet_length(spec) \
    FROM jobs JOIN specs ON specs.job = jobs.id";

/// Selects the columns of [`row::listed`].
macro_rules! select_listed {
    ($rest:literal) => {
        concat!("SELECT jobs.id, tenant, record, spec FROM jobs JOIN specs ON specs.job = jobs.id ", $rest)
    };
}
pub(super) use select_listed;

const COLUMNS: &str =
    select_listed!("WHERE jobs.id IN (SELECT unhex(value) FROM json_each(?)) ORDER BY jobs.id DESC");

/// Builds the page of the first jobs that have at most [`LIST_PAGE_BYTES`] together.
pub(super) async fn page(
    store: &SqliteStore,
    sizes: &[sqlx::sqlite::SqliteRow],
    limit: usize,
) -> Result<JobPage, StoreError> {
    let bytes = sizes.iter().map(|found| found.try_get::<i64, _>(1).map_err(store_error));
    let bytes = bytes.collect::<Result<Vec<_>, _>>()?;
    let bytes = bytes.into_iter().take(limit).map(|bytes| usize::try_from(bytes).unwrap_or(0));
    let first = &sizes[..fitting(bytes, usize::MAX, LIST_PAGE_BYTES)];
    let ids = first.iter().map(|found| row::uuid(found, 0)).collect::<Result<Vec<Uuid>, _>>()?;
    let next = ids.last().filter(|_| sizes.len() > ids.len()).copied().map(JobId::from_uuid);
    let wanted = column::json(&ids.into_iter().map(Hex).collect::<Vec<_>>())?;
    let rows = store.listed(sqlx::query(COLUMNS).bind(wanted)).await?;
    let jobs = rows.iter().map(row::listed).collect::<Result<Vec<_>, _>>()?;
    Ok(JobPage { jobs, next })
}
