//! The handle of one job: shortcuts to the areas of the platform for its id.

use std::sync::Arc;

use hodei_core::artifact::WorkspacePath;
use hodei_core::event::Envelope;
use hodei_core::id::JobId;
use hodei_core::job::Job;
use hodei_core::scheduling::SchedulingDecision;

use super::Hodei;
use crate::error::Error;
use crate::seam::{ArtifactReader, JobLogs, JobWatch};

/// The handle of one job. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JobHandle {
    pub(in crate::platform) hodei: Hodei,
    pub(in crate::platform) id: JobId,
    pub(in crate::platform) is_new: bool,
}

impl JobHandle {
    /// Returns the id of the job.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Whether the submit that returned this handle created the job. False if its id or idempotency key matched an
    /// existing job, and for a handle that comes from neither a submit nor a retry.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Follows the output of the job from its beginning.
    pub fn logs(&self) -> JobLogs {
        self.hodei.jobs().logs(self.id)
    }

    /// Follows the states of the job, beginning with the current one.
    pub fn watch(&self) -> JobWatch {
        self.hodei.jobs().watch(self.id)
    }

    /// Waits for the end of the job. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn wait(&self) -> Result<Arc<Job>, Error> {
        self.watch().ended().await
    }

    /// Cancels the job: see [`Jobs::cancel`](crate::Jobs::cancel).
    ///
    /// # Errors
    /// As [`Jobs::cancel`](crate::Jobs::cancel).
    pub async fn cancel(&self) -> Result<Arc<Job>, Error> {
        self.hodei.jobs().cancel(self.id).await
    }

    /// Opens an artifact of the job: see [`Artifacts::get`](crate::Artifacts::get).
    ///
    /// # Errors
    /// As [`Artifacts::get`](crate::Artifacts::get).
    pub async fn artifact(&self, name: &WorkspacePath) -> Result<ArtifactReader, Error> {
        self.hodei.artifacts().get(self.id, name).await
    }

    /// Returns the current state of the job.
    ///
    /// # Errors
    /// As [`Jobs::get`](crate::Jobs::get).
    pub async fn get(&self) -> Result<Arc<Job>, Error> {
        self.hodei.jobs().get(self.id).await
    }

    /// Returns every event of the job, oldest first.
    ///
    /// # Errors
    /// As [`Jobs::history`](crate::Jobs::history).
    pub async fn history(&self) -> Result<Vec<Envelope>, Error> {
        self.hodei.jobs().history(self.id).await
    }

    /// Explains the state of the job: see [`Jobs::explain`](crate::Jobs::explain).
    ///
    /// # Errors
    /// As [`Jobs::explain`](crate::Jobs::explain).
    pub async fn explain(&self) -> Result<SchedulingDecision, Error> {
        self.hodei.jobs().explain(self.id).await
    }
}
