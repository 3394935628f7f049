use std::sync::Arc;

use hodei_core::artifact::WorkspacePath;
use hodei_core::id::JobId;
use hodei_core::job::Job;

use super::Hodei;
use crate::app::{ArtifactReader, JobLogs};
use crate::error::Error;

/// One job of a platform.
#[derive(Debug, Clone)]
pub struct JobHandle {
    pub(super) platform: Hodei,
    pub(super) id: JobId,
    pub(super) found: bool,
}

impl JobHandle {
    /// Its id.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Whether the submit that gave this handle found the job, by its id or its idempotency key, and made no new one.
    pub fn was_found(&self) -> bool {
        self.found
    }

    /// Its output as it comes, from its beginning.
    pub fn logs(&self) -> JobLogs {
        self.platform.logs(self.id)
    }

    /// Waits for its end. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn wait(&self) -> Result<Arc<Job>, Error> {
        self.platform.watch(self.id).ended().await
    }

    /// Cancels it: see [`Hodei::cancel`].
    ///
    /// # Errors
    /// As [`Hodei::cancel`].
    pub async fn cancel(&self) -> Result<Arc<Job>, Error> {
        self.platform.cancel(self.id).await
    }

    /// A file that is kept of it: see [`Hodei::artifact`].
    ///
    /// # Errors
    /// As [`Hodei::artifact`].
    pub async fn artifact(&self, name: &WorkspacePath) -> Result<ArtifactReader, Error> {
        self.platform.artifact(self.id, name).await
    }

    /// Its present state.
    ///
    /// # Errors
    /// As [`Hodei::get`].
    pub async fn get(&self) -> Result<Arc<Job>, Error> {
        self.platform.get(self.id).await
    }
}
