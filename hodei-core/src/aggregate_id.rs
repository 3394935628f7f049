//! The key of an aggregate of any kind.

use serde::{Deserialize, Serialize};

use crate::id::{JobId, ProviderId, SecretId, StoreId, TokenId, WorkerId};

/// The key of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AggregateId {
    /// A job.
    Job(JobId),
    /// A worker.
    Worker(WorkerId),
    /// A provider.
    Provider(ProviderId),
    /// A secret.
    Secret(SecretId),
    /// A token for clients.
    Token(TokenId),
    /// The platform itself, which has no stored state.
    Platform(StoreId),
}
