//! Artifacts: files that a job gets before its start, and files of its workspace that are kept after its end.
//!
//! An artifact belongs to the attempt that stored it. Only artifacts in the accepted report of an attempt count, so a
//! fenced attempt leaves none.

mod path;
mod value;

pub use path::{ParseWorkspacePathError, WorkspacePath};
pub use value::{Artifact, ArtifactInput, ArtifactKey, ArtifactOutput, Digest, ParseDigestError};
