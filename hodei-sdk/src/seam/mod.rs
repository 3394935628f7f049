//! The private traits behind the areas of the public handle, one for each area, and the streams that they return. Each
//! trait has two implementations: the application of this process in `app`, and the client of a daemon in `client`. The
//! application checks the permissions of callers; the client leaves that to its daemon.

mod artifact_reader;
mod completions;
mod job_feed;
mod job_logs;
mod job_watch;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hodei_core::access::{Caller, TokenTerms, TokenView};
use hodei_core::artifact::WorkspacePath;
use hodei_core::event::Envelope;
use hodei_core::id::{JobId, TokenId, WorkerId};
use hodei_core::job::{Job, JobSpec};
use hodei_core::port::{FeedCursor, FeedPage, JobFilter, JobPage, SecretInfo};
use hodei_core::scheduling::{QueueStatus, SchedulingDecision};
use hodei_core::secret::{SecretName, SecretPolicy, SecretValue};
use hodei_core::worker::WorkerView;

use crate::error::Error;

pub use artifact_reader::ArtifactReader;
pub(crate) use artifact_reader::Measure;
pub(crate) use completions::CompletionSource;
pub use completions::JobCompletions;
pub(crate) use job_feed::JobFeedSource;
pub use job_feed::{JobChanges, JobFeed};
pub use job_logs::{JobLogs, LogItem};
pub(crate) use job_logs::{LogPlace, OutputSource};
pub use job_watch::JobWatch;
pub(crate) use job_watch::StateSource;

/// The answer to one accepted submit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Submitted {
    pub(crate) id: JobId,
    /// False if the id or the idempotency key matched an existing job.
    pub(crate) is_new: bool,
}

/// The seam of [`Jobs`](crate::Jobs).
#[async_trait]
pub(crate) trait JobSeam: Debug + Send + Sync {
    /// Accepts jobs independently, some of them under ids that the caller chose. The answers are in the order of the
    /// jobs.
    async fn submit(
        &self,
        caller: &Caller,
        jobs: Vec<(Option<JobId>, JobSpec)>,
    ) -> Result<Vec<Result<Submitted, Error>>, Error>;

    /// Submits a job again and returns the id of the new one. `force` allows a job that has not ended.
    async fn retry(&self, caller: &Caller, id: JobId, force: bool) -> Result<JobId, Error>;

    async fn get(&self, caller: &Caller, id: JobId) -> Result<Arc<Job>, Error>;

    /// Returns one page, bounded in bytes: it may have fewer jobs than the filter's limit although there is a next
    /// page.
    async fn page(&self, caller: &Caller, filter: JobFilter) -> Result<JobPage, Error>;

    async fn cancel(&self, caller: &Caller, id: JobId) -> Result<Arc<Job>, Error>;

    async fn history(&self, caller: &Caller, id: JobId) -> Result<Vec<Envelope>, Error>;

    async fn explain(&self, caller: &Caller, id: JobId) -> Result<SchedulingDecision, Error>;

    fn watch(&self, caller: &Caller, id: JobId) -> JobWatch;

    fn watch_all(&self, caller: &Caller, from: Option<FeedCursor>) -> JobFeed;

    fn completions(&self, caller: &Caller, ids: Vec<JobId>) -> JobCompletions;

    fn logs(&self, caller: &Caller, id: JobId) -> JobLogs;
}

/// The seam of [`Workers`](crate::Workers).
#[async_trait]
pub(crate) trait WorkerSeam: Debug + Send + Sync {
    async fn list(&self, caller: &Caller) -> Result<Vec<WorkerView>, Error>;

    async fn get(&self, caller: &Caller, id: WorkerId) -> Result<Option<WorkerView>, Error>;

    async fn drain(&self, caller: &Caller, id: WorkerId) -> Result<WorkerView, Error>;
}

/// The seam of [`Secrets`](crate::Secrets).
#[async_trait]
pub(crate) trait SecretSeam: Debug + Send + Sync {
    async fn put(&self, caller: &Caller, name: &SecretName, value: SecretValue) -> Result<(), Error>;

    async fn list(&self, caller: &Caller) -> Result<Vec<SecretInfo>, Error>;

    async fn delete(&self, caller: &Caller, name: &SecretName) -> Result<bool, Error>;

    /// Replaces the policy; a daemon keeps its own.
    fn set_policy(&self, policy: SecretPolicy);
}

/// The seam of [`Tokens`](crate::Tokens).
#[async_trait]
pub(crate) trait TokenSeam: Debug + Send + Sync {
    async fn create(
        &self,
        caller: &Caller,
        terms: TokenTerms,
        life: Option<Duration>,
    ) -> Result<(TokenView, String), Error>;

    async fn list(&self, caller: &Caller) -> Result<Vec<TokenView>, Error>;

    async fn revoke(&self, caller: &Caller, id: TokenId) -> Result<TokenView, Error>;
}

/// The seam of [`Artifacts`](crate::Artifacts).
#[async_trait]
pub(crate) trait ArtifactSeam: Debug + Send + Sync {
    async fn get(&self, caller: &Caller, job: JobId, name: &WorkspacePath) -> Result<ArtifactReader, Error>;
}

/// The seam of [`Events`](crate::Events).
#[async_trait]
pub(crate) trait EventSeam: Debug + Send + Sync {
    async fn read(&self, caller: &Caller, after: &FeedCursor, limit: usize) -> Result<FeedPage, Error>;
}

/// The seam of [`Queue`](crate::Queue).
#[async_trait]
pub(crate) trait QueueSeam: Debug + Send + Sync {
    async fn status(&self, caller: &Caller) -> Result<QueueStatus, Error>;
}
