//! Values to columns and back.

use std::sync::Arc;

use hodei_core::decision::AggregateId;
use hodei_core::event::{Actor, Envelope};
use hodei_core::id::{AttemptId, EventId, JobId, ProviderId, WorkerId};
use hodei_core::job::{Job, JobRecord, JobStatus, TenantId};
use hodei_core::port::StoreError;
use hodei_core::time::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::schema::store_error;

/// The number of an actor is its place here.
const ACTORS: [Actor; 4] = [Actor::Client, Actor::Coordinator, Actor::Agent, Actor::Platform];

pub(super) fn blob(id: Uuid) -> Vec<u8> {
    id.into_bytes().to_vec()
}

/// Numbers that the database keeps signed.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn status(status: JobStatus) -> i64 {
    JobStatus::ALL.iter().position(|known| *known == status).map_or(-1, |at| at as i64)
}

pub(super) fn actor(actor: Actor) -> i64 {
    ACTORS.iter().position(|known| *known == actor).map_or(-1, |at| at as i64)
}

/// The number of its kind, and its id.
pub(super) fn aggregate_key(aggregate: AggregateId) -> (i64, Uuid) {
    match aggregate {
        AggregateId::Job(id) => (0, id.as_uuid()),
        AggregateId::Worker(id) => (1, id.as_uuid()),
        AggregateId::Provider(id) => (2, id.as_uuid()),
    }
}

pub(super) fn aggregate(kind: i64, id: Uuid) -> Option<AggregateId> {
    match kind {
        0 => Some(AggregateId::Job(JobId::from_uuid(id))),
        1 => Some(AggregateId::Worker(WorkerId::from_uuid(id))),
        2 => Some(AggregateId::Provider(ProviderId::from_uuid(id))),
        _ => None,
    }
}

/// An id in JSON: `unhex` makes a blob of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hex(pub(super) Uuid);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.simple().encode_lower(&mut Uuid::encode_buffer()))
    }
}

pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Other(error.into()))
}

pub(super) fn document<T: DeserializeOwned>(row: &SqliteRow, column: usize) -> Result<T, StoreError> {
    let text: &str = row.try_get(column).map_err(store_error)?;
    serde_json::from_str(text).map_err(|error| StoreError::Other(error.into()))
}

pub(super) fn uuid(row: &SqliteRow, column: usize) -> Result<Uuid, StoreError> {
    let bytes: &[u8] = row.try_get(column).map_err(store_error)?;
    Uuid::from_slice(bytes).map_err(|error| StoreError::Other(error.into()))
}

fn number(row: &SqliteRow, column: &str) -> Result<i64, StoreError> {
    row.try_get(column).map_err(store_error)
}

/// `id, tenant, record, spec`.
pub(super) fn job(row: &SqliteRow) -> Result<Arc<Job>, StoreError> {
    let id = JobId::from_uuid(uuid(row, 0)?);
    let tenant = TenantId::new(row.try_get(1).map_err(store_error)?);
    let record: JobRecord = document(row, 2)?;
    Ok(Arc::new(record.restore(id, tenant, Arc::new(document(row, 3)?))))
}

/// `id, record`.
pub(super) fn last_attempt(row: &SqliteRow) -> Result<AttemptId, StoreError> {
    let record: JobRecord = document(row, 1)?;
    Ok(AttemptId { job: JobId::from_uuid(uuid(row, 0)?), number: record.attempt })
}

/// All columns of `events`.
pub(super) fn envelope(row: &SqliteRow) -> Result<Envelope, StoreError> {
    let unknown = |what: &str| StoreError::Other(format!("an event has an unknown {what}").into());
    let aggregate = aggregate(number(row, "kind")?, uuid(row, 3)?).ok_or_else(|| unknown("kind"))?;
    let actor = usize::try_from(number(row, "actor")?).ok().and_then(|at| ACTORS.get(at).copied());
    let causation: Option<&[u8]> = row.try_get("causation").map_err(store_error)?;
    Ok(Envelope {
        id: EventId::from_uuid(uuid(row, 1)?),
        sequence: number(row, "sequence")?.unsigned_abs(),
        aggregate,
        version: number(row, "version")?.unsigned_abs(),
        correlation: EventId::from_uuid(uuid(row, 5)?),
        causation: causation.and_then(|bytes| Uuid::from_slice(bytes).ok()).map(EventId::from_uuid),
        actor: actor.ok_or_else(|| unknown("actor"))?,
        at: Timestamp::from_micros(number(row, "at")?),
        schema: u16::try_from(number(row, "schema")?).map_err(|_| unknown("schema"))?,
        event: document(row, 10)?,
    })
}
