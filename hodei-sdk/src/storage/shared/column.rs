//! Numbers that stand for kinds in every database, and JSON columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use hodei_core::decision::AggregateId;
use hodei_core::event::Actor;
use hodei_core::id::{JobId, ProviderId, SecretId, StoreId, TokenId, WorkerId};
#[cfg(feature = "postgres")]
use hodei_core::job::JobSpec;
use hodei_core::job::JobStatus;
use hodei_core::port::{SecretInfo, StoreError};
use hodei_core::secret::SecretName;
use hodei_core::time::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Actors by number.
const ACTORS: [Actor; 4] = [Actor::Client, Actor::Coordinator, Actor::Agent, Actor::Platform];

/// Converts a number for a signed column.
pub(in crate::storage) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns the number of a status.
pub(in crate::storage) fn status(status: JobStatus) -> i16 {
    JobStatus::ALL.iter().position(|known| *known == status).map_or(-1, |at| at as i16)
}

/// Returns the number of an actor.
pub(in crate::storage) fn actor(actor: Actor) -> i16 {
    ACTORS.iter().position(|known| *known == actor).map_or(-1, |at| at as i16)
}

/// Returns the actor with a number.
pub(in crate::storage) fn actor_of(number: i64) -> Result<Actor, StoreError> {
    let actor = usize::try_from(number).ok().and_then(|at| ACTORS.get(at).copied());
    actor.ok_or_else(|| StoreError::Other(format!("an event has the unknown actor {number}").into()))
}

/// Number of kinds of aggregates that have a state.
pub(in crate::storage) const KIND_COUNT: usize = 5;

/// Returns the number of an aggregate's kind, and its id.
pub(in crate::storage) fn aggregate_key(aggregate: AggregateId) -> (i16, Uuid) {
    match aggregate {
        AggregateId::Job(id) => (0, id.as_uuid()),
        AggregateId::Worker(id) => (1, id.as_uuid()),
        AggregateId::Provider(id) => (2, id.as_uuid()),
        AggregateId::Secret(id) => (3, id.as_uuid()),
        AggregateId::Token(id) => (4, id.as_uuid()),
        AggregateId::Platform(id) => (5, id.as_uuid()),
    }
}

/// Returns the aggregate with a kind's number and an id.
pub(in crate::storage) fn aggregate(kind: i64, id: Uuid) -> Result<AggregateId, StoreError> {
    match kind {
        0 => Ok(AggregateId::Job(JobId::from_uuid(id))),
        1 => Ok(AggregateId::Worker(WorkerId::from_uuid(id))),
        2 => Ok(AggregateId::Provider(ProviderId::from_uuid(id))),
        3 => Ok(AggregateId::Secret(SecretId::from_uuid(id))),
        4 => Ok(AggregateId::Token(TokenId::from_uuid(id))),
        5 => Ok(AggregateId::Platform(StoreId::from_uuid(id))),
        _ => Err(StoreError::Other(format!("an event has the unknown aggregate kind {kind}").into())),
    }
}

/// Sorts the found aggregates into the order of the requested ids, with `None` for each missing one.
pub(in crate::storage) fn in_order<I: Ord, T>(
    ids: &[I],
    found: &[Arc<T>],
    id: impl Fn(&T) -> I,
) -> Vec<Option<Arc<T>>> {
    let known: BTreeMap<I, &Arc<T>> = found.iter().map(|found| (id(found), found)).collect();
    ids.iter().map(|wanted| known.get(wanted).map(|found| Arc::clone(found))).collect()
}

/// One secret in a list.
#[derive(Debug, Deserialize)]
pub(in crate::storage) struct Listed {
    name: SecretName,
    at: Timestamp,
}

impl Listed {
    pub(in crate::storage) fn info(self) -> SecretInfo {
        SecretInfo { name: self.name, changed_at: self.at }
    }
}

/// Returns the JSON of a spec as lists show it; `None` when the whole JSON is short enough for lists.
#[cfg(feature = "postgres")]
pub(in crate::storage) fn listing(spec: &JobSpec, whole: &str) -> Result<Option<String>, StoreError> {
    if whole.len() <= crate::storage::shared::pages::MAX_LISTED_SPEC_BYTES {
        Ok(None)
    } else {
        json(&spec.listing()).map(Some)
    }
}

pub(in crate::storage) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Other(error.into()))
}

pub(in crate::storage) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Other(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_stable_numbers() {
        let numbers: Vec<i16> = JobStatus::ALL.iter().map(|known| status(*known)).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
