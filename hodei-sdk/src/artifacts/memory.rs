//! Artifacts in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use hodei_core::artifact::ArtifactKey;
use hodei_core::id::JobId;
use hodei_core::job::TenantId;
use hodei_core::port::{ArtifactContent, ArtifactError, ArtifactStore};

/// An artifact store in memory, for a platform that keeps everything there. Clones share it.
#[derive(Clone)]
pub struct MemoryArtifacts {
    kept: Arc<Mutex<Kept>>,
    limit: usize,
}

#[derive(Default)]
struct Kept {
    artifacts: BTreeMap<ArtifactKey, Bytes>,
    /// Bytes of stored artifacts and of uploads in progress.
    used: usize,
}

/// Reserved space for an upload; freed if the upload fails.
struct Reservation<'a> {
    kept: &'a Mutex<Kept>,
    bytes: usize,
}

impl Reservation<'_> {
    fn grow(&mut self, bytes: usize, limit: usize) -> Result<(), ArtifactError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.used + bytes > limit {
            return Err(ArtifactError::Full(format!(
                "the artifact store in memory is full: its limit is {limit} bytes. Remove jobs or raise the limit"
            )));
        }
        kept.used += bytes;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).used -= self.bytes;
    }
}

/// Size of the pieces that a read returns.
const READ_PIECE_BYTES: usize = 256 << 10;

impl MemoryArtifacts {
    /// Creates an empty store for at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { kept: Arc::default(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryArtifacts {
    /// Creates an empty store for at most 256 MiB.
    fn default() -> Self {
        Self::new(256 << 20)
    }
}

impl fmt::Debug for MemoryArtifacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryArtifacts").field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[async_trait]
impl ArtifactStore for MemoryArtifacts {
    async fn put(&self, key: &ArtifactKey, mut content: ArtifactContent) -> Result<(), ArtifactError> {
        let (mut reservation, mut bytes) = (Reservation { kept: &self.kept, bytes: 0 }, BytesMut::new());
        while let Some(piece) = content.try_next().await? {
            reservation.grow(piece.len(), self.limit)?;
            bytes.extend_from_slice(&piece);
        }
        let mut kept = self.lock();
        let replaced = kept.artifacts.insert(key.clone(), bytes.freeze());
        kept.used -= replaced.map_or(0, |replaced| replaced.len());
        reservation.bytes = 0;
        drop(kept);
        Ok(())
    }

    async fn get(&self, key: &ArtifactKey) -> Result<Option<ArtifactContent>, ArtifactError> {
        let Some(mut left) = self.lock().artifacts.get(key).cloned() else { return Ok(None) };
        let mut pieces = Vec::with_capacity(left.len().div_ceil(READ_PIECE_BYTES));
        while !left.is_empty() {
            pieces.push(Ok(left.split_to(left.len().min(READ_PIECE_BYTES))));
        }
        Ok(Some(stream::iter(pieces).boxed()))
    }

    async fn remove(&self, tenant: &TenantId, jobs: &[JobId]) -> Result<(), ArtifactError> {
        let mut kept = self.lock();
        let is_of_them = |key: &ArtifactKey| key.tenant == *tenant && jobs.contains(&key.attempt.job);
        let removed = kept.artifacts.extract_if(.., |key, _| is_of_them(key));
        let bytes: usize = removed.map(|(_, bytes)| bytes.len()).sum();
        kept.used -= bytes;
        Ok(())
    }
}
