//! Conversion of values to columns and back.

use std::sync::Arc;

use hodei_core::event::Envelope;
use hodei_core::id::{AttemptId, EventId, JobId};
use hodei_core::job::{Job, JobRecord, JobSpec, TenantId};
use hodei_core::port::StoreError;
use hodei_core::time::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::errors::store_error;
use crate::storage::shared::column;

pub(super) fn blob(id: Uuid) -> Vec<u8> {
    id.into_bytes().to_vec()
}

/// An id in JSON, which `unhex` turns into a blob.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hex(pub(super) Uuid);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.simple().encode_lower(&mut Uuid::encode_buffer()))
    }
}

pub(super) fn document<T: DeserializeOwned>(row: &SqliteRow, column: usize) -> Result<T, StoreError> {
    let text: &str = row.try_get(column).map_err(store_error)?;
    column::parse(text)
}

/// Reads a number and a size in bytes.
pub(super) fn numbers(row: &SqliteRow) -> Result<(i64, usize), StoreError> {
    let (first, bytes): (i64, i64) =
        (row.try_get(0).map_err(store_error)?, row.try_get(1).map_err(store_error)?);
    Ok((first, usize::try_from(bytes).unwrap_or(0)))
}

/// Parses the documents in the first column of all rows.
pub(super) fn parse_all<T: DeserializeOwned>(rows: &[SqliteRow]) -> Result<Vec<Arc<T>>, StoreError> {
    rows.iter().map(|row| document(row, 0).map(Arc::new)).collect()
}

pub(super) fn uuid(row: &SqliteRow, column: usize) -> Result<Uuid, StoreError> {
    let bytes: &[u8] = row.try_get(column).map_err(store_error)?;
    Uuid::from_slice(bytes).map_err(|error| StoreError::Other(error.into()))
}

fn number(row: &SqliteRow, column: &str) -> Result<i64, StoreError> {
    row.try_get(column).map_err(store_error)
}

/// Reads a job from `id, tenant, record, spec`.
pub(super) fn job(row: &SqliteRow) -> Result<Arc<Job>, StoreError> {
    shown(row, |spec| spec)
}

/// Reads a job from the same columns, in the short form of lists.
pub(super) fn listed(row: &SqliteRow) -> Result<Arc<Job>, StoreError> {
    shown(row, JobSpec::into_listing)
}

fn shown(row: &SqliteRow, show: impl FnOnce(JobSpec) -> JobSpec) -> Result<Arc<Job>, StoreError> {
    let (id, tenant) = (JobId::from_uuid(uuid(row, 0)?), TenantId::new(row.try_get(1).map_err(store_error)?));
    let record: JobRecord = document(row, 2)?;
    Ok(Arc::new(record.restore(id, tenant, Arc::new(show(document(row, 3)?)))))
}

/// Reads an attempt from `id, record`.
pub(super) fn last_attempt(row: &SqliteRow) -> Result<AttemptId, StoreError> {
    let record: JobRecord = document(row, 1)?;
    Ok(AttemptId { job: JobId::from_uuid(uuid(row, 0)?), number: record.attempt })
}

/// Reads an event from all columns of `events`.
pub(super) fn envelope(row: &SqliteRow) -> Result<Envelope, StoreError> {
    let schema = u16::try_from(number(row, "schema")?);
    let aggregate = column::aggregate(number(row, "kind")?, uuid(row, 3)?)?;
    let causation: Option<&[u8]> = row.try_get("causation").map_err(store_error)?;
    Ok(Envelope {
        id: EventId::from_uuid(uuid(row, 1)?),
        sequence: number(row, "sequence")?.unsigned_abs(),
        aggregate,
        version: number(row, "version")?.unsigned_abs(),
        correlation: EventId::from_uuid(uuid(row, 5)?),
        causation: causation.and_then(|bytes| Uuid::from_slice(bytes).ok()).map(EventId::from_uuid),
        actor: column::actor_of(number(row, "actor")?)?,
        at: Timestamp::from_micros(number(row, "at")?),
        schema: schema.map_err(|_| StoreError::Other("an event has an unknown schema version".into()))?,
        event: document(row, 10)?,
    })
}
