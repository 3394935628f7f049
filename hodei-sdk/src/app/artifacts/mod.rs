//! Files that go from job to job: who may read and write which, and where they are. The bytes are kept by an
//! `ArtifactStore`.

pub(crate) mod service;
