//! Artifacts, the files that jobs pass to other jobs: access checks and transfers. An `ArtifactStore` keeps the bytes.

pub(crate) mod service;
