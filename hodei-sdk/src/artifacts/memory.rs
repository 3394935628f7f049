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

/// Artifacts in memory, for a platform that has everything there. Clones share them.
#[derive(Clone)]
pub struct MemoryArtifacts {
    kept: Arc<Mutex<BTreeMap<ArtifactKey, Bytes>>>,
    limit: usize,
}

/// Bytes of a piece that is read.
const PIECE: usize = 256 << 10;

impl MemoryArtifacts {
    /// None yet, and never more than so many bytes of them.
    pub fn new(limit: usize) -> Self {
        Self { kept: Arc::default(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ArtifactKey, Bytes>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryArtifacts {
    /// At most 256 MiB.
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
        let full =
            || ArtifactError::Refused(format!("artifacts in memory are full with {} bytes", self.limit));
        let mut bytes = BytesMut::new();
        while let Some(piece) = content.try_next().await? {
            if bytes.len() + piece.len() > self.limit {
                return Err(full());
            }
            bytes.extend_from_slice(&piece);
        }
        let mut kept = self.lock();
        let others: usize =
            kept.iter().filter(|(other, _)| *other != key).map(|(_, bytes)| bytes.len()).sum();
        if others + bytes.len() > self.limit {
            return Err(full());
        }
        kept.insert(key.clone(), bytes.freeze());
        Ok(())
    }

    async fn get(&self, key: &ArtifactKey) -> Result<Option<ArtifactContent>, ArtifactError> {
        let Some(mut left) = self.lock().get(key).cloned() else { return Ok(None) };
        let mut pieces = Vec::with_capacity(left.len().div_ceil(PIECE));
        while !left.is_empty() {
            pieces.push(Ok(left.split_to(left.len().min(PIECE))));
        }
        Ok(Some(stream::iter(pieces).boxed()))
    }

    async fn remove(&self, tenant: &TenantId, jobs: &[JobId]) -> Result<(), ArtifactError> {
        self.lock().retain(|key, _| key.tenant != *tenant || !jobs.contains(&key.attempt.job));
        Ok(())
    }
}
