//! The content of one artifact, as a stream that is verified by size and hash.

use std::future::poll_fn;

use bytes::Bytes;
use hodei_core::artifact::Artifact;
use hodei_core::port::{ArtifactContent, ArtifactError};
use sha2::{Digest as _, Sha256};

use crate::Error;

/// Reads an artifact piece by piece.
pub struct ArtifactReader {
    artifact: Artifact,
    content: ArtifactContent,
    measure: Measure,
}

impl std::fmt::Debug for ArtifactReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArtifactReader").field("artifact", &self.artifact).finish_non_exhaustive()
    }
}

impl ArtifactReader {
    pub(crate) fn new(artifact: Artifact, content: ArtifactContent) -> Self {
        Self { artifact, content, measure: Measure::default() }
    }

    /// Returns the description of the artifact.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// Returns the next piece; `None` after the last, if the size and hash of all pieces are those that were stored.
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::ArtifactStore`], also at the end if the content differs from the stored one.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match poll_fn(|context| self.content.as_mut().poll_next(context)).await.transpose()? {
            Some(piece) => {
                self.measure.add(&piece);
                Ok(Some(piece))
            }
            None => {
                let is_whole = self.measure.is(self.artifact.bytes, self.artifact.sha256.as_bytes());
                let name = &self.artifact.name;
                let broken = || {
                    ArtifactError::Refused(format!(
                        "`{name}` does not match its stored size and hash: get it again"
                    ))
                };
                if is_whole { Ok(None) } else { Err(broken().into()) }
            }
        }
    }

    /// Reads all remaining pieces into memory.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn bytes(mut self) -> Result<Vec<u8>, Error> {
        let mut whole = Vec::new();
        while let Some(piece) = self.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }
}

/// The size and hash of the content so far.
#[derive(Default)]
pub(crate) struct Measure {
    pub(crate) bytes: u64,
    hash: Sha256,
}

impl Measure {
    pub(crate) fn add(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.hash.update(piece);
    }

    pub(crate) fn is(&self, bytes: u64, sha256: &[u8]) -> bool {
        self.bytes == bytes && *sha256 == self.hash.clone().finalize()[..]
    }
}
