//! The changes of all jobs, as a stream.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::job::Job;
use hodei_core::port::FeedCursor;

use crate::Error;

/// Follows the changes of all jobs from a place in the feed of events.
#[derive(Debug)]
pub struct JobFeed {
    source: Box<dyn JobFeedSource>,
    ends_only: bool,
}

/// Jobs that changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobChanges {
    /// Their current states, each once, as [`Job::listing`] shows them. States between two changes may be skipped.
    pub jobs: Vec<Arc<Job>>,
    /// The place after them: a follower that continues from here misses no change.
    pub next: FeedCursor,
}

/// The source of changes: the store of this platform, or a daemon.
#[async_trait]
pub(crate) trait JobFeedSource: Debug + Send {
    /// Waits for the next changes. Cancel safe.
    async fn next(&mut self, ends_only: bool) -> Result<JobChanges, Error>;
}

impl JobFeed {
    pub(crate) fn new(source: Box<dyn JobFeedSource>) -> Self {
        Self { source, ends_only: false }
    }

    /// Restricts the feed to jobs that have ended. To be set before the first call of [`next`](Self::next).
    #[must_use]
    pub fn ends_only(mut self, ends_only: bool) -> Self {
        self.ends_only = ends_only;
        self
    }

    /// Waits for the next changes and returns them. The first call returns no jobs, only the place at which the feed
    /// begins. Cancel safe.
    ///
    /// # Errors
    /// The store's, which refuses a cursor that it did not issue.
    pub async fn next(&mut self) -> Result<JobChanges, Error> {
        self.source.next(self.ends_only).await
    }
}
