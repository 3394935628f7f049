//! The area of artifacts: reads the output files of jobs.

use hodei_core::artifact::WorkspacePath;
use hodei_core::id::JobId;

use crate::Hodei;
use crate::error::Error;
use crate::seam::{ArtifactReader, ArtifactSeam};

/// The output files of jobs: see [`Hodei::artifacts`].
#[derive(Debug, Clone)]
pub struct Artifacts {
    hodei: Hodei,
}

impl Artifacts {
    pub(in crate::platform) fn new(hodei: &Hodei) -> Self {
        Self { hodei: hodei.clone() }
    }

    /// Opens an output file of a job by its path in the workspace. [`Job::artifacts`](crate::Job::artifacts) lists
    /// them.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoArtifact`], [`Error::ArtifactsDisabled`] on a platform without an artifact store,
    /// [`Error::ArtifactStore`].
    pub async fn get(&self, job: JobId, name: &WorkspacePath) -> Result<ArtifactReader, Error> {
        self.seam().get(self.hodei.caller(), job, name).await
    }

    fn seam(&self) -> &dyn ArtifactSeam {
        &*self.hodei.seams().artifacts
    }
}
