//! Conversion of columns to values.

use std::sync::Arc;

use hodei_core::event::Envelope;
use hodei_core::id::{AttemptId, EventId, JobId};
use hodei_core::job::{Job, JobRecord, JobSpec, TenantId};
use hodei_core::port::{FeedCursor, StoreError};
use hodei_core::time::Timestamp;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::{Decode, Postgres, Row, Type};
use uuid::Uuid;

use crate::storage::shared::column;

pub(super) fn get<'r, T>(row: &'r PgRow, column: usize) -> Result<T, StoreError>
where
    T: Decode<'r, Postgres> + Type<Postgres>,
{
    row.try_get(column).map_err(|error| StoreError::Other(error.into()))
}

fn named<'r, T>(row: &'r PgRow, column: &str) -> Result<T, StoreError>
where
    T: Decode<'r, Postgres> + Type<Postgres>,
{
    row.try_get(column).map_err(|error| StoreError::Other(error.into()))
}

pub(super) fn document<T: DeserializeOwned>(row: &PgRow, column: usize) -> Result<T, StoreError> {
    column::parse(get(row, column)?)
}

/// Parses the documents in the first column of all rows.
pub(super) fn parse_all<T: DeserializeOwned>(rows: &[PgRow]) -> Result<Vec<Arc<T>>, StoreError> {
    rows.iter().map(|row| document(row, 0).map(Arc::new)).collect()
}

/// Reads a job from `id, tenant, record, spec`.
pub(super) fn job(row: &PgRow) -> Result<Arc<Job>, StoreError> {
    shown(row, |spec| spec)
}

/// Reads a job from the same columns, in the short form of lists.
pub(super) fn listed(row: &PgRow) -> Result<Arc<Job>, StoreError> {
    shown(row, JobSpec::into_listing)
}

fn shown(row: &PgRow, show: impl FnOnce(JobSpec) -> JobSpec) -> Result<Arc<Job>, StoreError> {
    let (id, tenant) = (JobId::from_uuid(get(row, 0)?), TenantId::new(get::<&str>(row, 1)?));
    let record: JobRecord = document(row, 2)?;
    Ok(Arc::new(record.restore(id, tenant, Arc::new(show(document(row, 3)?)))))
}

/// Reads an attempt from `id, record`.
pub(super) fn last_attempt(row: &PgRow) -> Result<AttemptId, StoreError> {
    let record: JobRecord = document(row, 1)?;
    Ok(AttemptId { job: JobId::from_uuid(get(row, 0)?), number: record.attempt })
}

/// Reads an event from all columns of `events`.
pub(super) fn envelope(row: &PgRow) -> Result<Envelope, StoreError> {
    let schema = u16::try_from(named::<i16>(row, "schema")?);
    Ok(Envelope {
        id: EventId::from_uuid(named(row, "id")?),
        sequence: named::<i64>(row, "sequence")?.unsigned_abs(),
        aggregate: column::aggregate(named::<i16>(row, "kind")?.into(), named(row, "aggregate")?)?,
        version: named::<i64>(row, "version")?.unsigned_abs(),
        correlation: EventId::from_uuid(named(row, "correlation")?),
        causation: named::<Option<Uuid>>(row, "causation")?.map(EventId::from_uuid),
        actor: column::actor_of(named::<i16>(row, "actor")?.into())?,
        at: Timestamp::from_micros(named(row, "at")?),
        schema: schema.map_err(|_| StoreError::Other("an event has an unknown schema version".into()))?,
        event: column::parse(named(row, "event")?)?,
    })
}

/// Returns the position after an event: its transaction and its number.
pub(super) fn cursor(row: &PgRow) -> Result<FeedCursor, StoreError> {
    let (tx, sequence): (&str, i64) = (named(row, "place")?, named(row, "sequence")?);
    Ok(FeedCursor::new(format!("{tx}.{sequence}")))
}

/// Returns the position before all events of a transaction.
pub(super) fn before(tx: &str) -> FeedCursor {
    FeedCursor::new(format!("{tx}.0"))
}

/// Parses a cursor.
pub(super) fn place(cursor: &FeedCursor) -> Result<(u64, i64), StoreError> {
    if cursor.as_str().is_empty() {
        return Ok((0, 0));
    }
    let parts = cursor.as_str().split_once('.');
    let read = parts.and_then(|(tx, sequence)| Some((tx.parse().ok()?, sequence.parse().ok()?)));
    read.ok_or(StoreError::Cursor)
}
