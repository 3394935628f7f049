use std::fmt::Debug;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

use crate::artifact::ArtifactKey;
use crate::id::JobId;
use crate::job::TenantId;

/// Keeps artifacts.
///
/// A panic counts as [`ArtifactError::Unavailable`]; a transfer that does not move is given up by its own limits.
#[async_trait]
pub trait ArtifactStore: Debug + Send + Sync + 'static {
    /// Stores what a stream gives, whole or not at all: readers see what was there before until it is stored, and so they
    /// do when the stream gives an error, which is then the answer. Durable when it returns.
    ///
    /// Not cancel safe: when dropped, it may have been stored or not, but never in part.
    ///
    /// # Errors
    /// [`ArtifactError`].
    async fn put(&self, key: &ArtifactKey, content: ArtifactContent) -> Result<(), ArtifactError>;

    /// What is stored; `None` where nothing is. Pieces of at most 1 MiB or so.
    ///
    /// # Errors
    /// [`ArtifactError`], also from the stream.
    async fn get(&self, key: &ArtifactKey) -> Result<Option<ArtifactContent>, ArtifactError>;

    /// Forgets all that attempts of some jobs of a tenant stored. Idempotent.
    ///
    /// # Errors
    /// [`ArtifactError`]; some may be gone then.
    async fn remove(&self, tenant: &TenantId, jobs: &[JobId]) -> Result<(), ArtifactError>;
}

/// The bytes of an artifact, piece by piece; nothing follows an error.
pub type ArtifactContent = Pin<Box<dyn Stream<Item = Result<Bytes, ArtifactError>> + Send>>;

/// Why an artifact cannot be stored or had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// Not now; the same call may work later.
    #[error("artifacts cannot be stored or had now: {0}")]
    Unavailable(String),
    /// There is no room, and waiting will not make any.
    #[error("{0}")]
    Full(String),
    /// It is not what it should be, or longer than it may be.
    #[error("{0}")]
    Refused(String),
}
