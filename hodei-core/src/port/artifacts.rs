//! The port of artifact stores.

use std::fmt::Debug;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

use crate::artifact::ArtifactKey;
use crate::id::JobId;
use crate::job::TenantId;

/// Stores artifacts.
///
/// A panic counts as [`ArtifactError::Unavailable`]. A stalled transfer is given up by its own limits.
#[async_trait]
pub trait ArtifactStore: Debug + Send + Sync + 'static {
    /// Stores the content of a stream, whole or not at all. Readers see the previous content until the new one is
    /// stored, and also when the stream yields an error, which `put` then returns. Durable when it returns.
    ///
    /// Not cancel safe: when the call is dropped, the content may be stored or not, but never in part.
    ///
    /// # Errors
    /// [`ArtifactError`].
    async fn put(&self, key: &ArtifactKey, content: ArtifactContent) -> Result<(), ArtifactError>;

    /// Returns the stored content, in pieces of about 1 MiB at most; `None` where there is none.
    ///
    /// # Errors
    /// [`ArtifactError`], also from the stream.
    async fn get(&self, key: &ArtifactKey) -> Result<Option<ArtifactContent>, ArtifactError>;

    /// Deletes all artifacts that attempts of some jobs of a tenant stored. Idempotent.
    ///
    /// # Errors
    /// [`ArtifactError`]; some artifacts may be deleted then.
    async fn remove(&self, tenant: &TenantId, jobs: &[JobId]) -> Result<(), ArtifactError>;
}

/// The bytes of an artifact, piece by piece; an error ends the stream.
pub type ArtifactContent = Pin<Box<dyn Stream<Item = Result<Bytes, ArtifactError>> + Send>>;

/// Why an artifact cannot be stored or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The store is unavailable now; the same call may succeed later.
    #[error("artifacts cannot be stored or read now: {0}")]
    Unavailable(String),
    /// The store is full, and waiting does not help.
    #[error("{0}")]
    Full(String),
    /// The content does not match its description, or is over a limit.
    #[error("{0}")]
    Refused(String),
}
