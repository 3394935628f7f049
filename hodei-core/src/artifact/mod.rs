//! Artifacts: files that a job is given before it starts, and files of it that are kept after its end.
//!
//! A job sees them in its workspace. An artifact belongs to the attempt that stored it; which ones count is in the report
//! of the attempt, so an attempt that is fenced leaves none.

mod path;
mod value;

pub use path::{ParseWorkspacePathError, WorkspacePath};
pub use value::{Artifact, ArtifactInput, ArtifactKey, ArtifactOutput, Digest, ParseDigestError};
