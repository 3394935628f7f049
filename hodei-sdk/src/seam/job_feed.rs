//! All jobs as they change, as a stream.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::job::Job;
use hodei_core::port::FeedCursor;

use crate::Error;

/// All jobs, as they change, from some place in the feed of events on.
#[derive(Debug)]
pub struct JobFeed {
    source: Box<dyn JobFeedSource>,
    ends_only: bool,
}

/// Jobs that changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobChanges {
    /// Their present states, each once, as [`Job::listing`] shows them; there may be some between this one and the last that was told of.
    pub jobs: Vec<Arc<Job>>,
    /// The place behind them: who goes on from here misses none.
    pub next: FeedCursor,
}

/// Where the changes come from: the store of this platform, or a daemon.
#[async_trait]
pub(crate) trait JobFeedSource: Debug + Send {
    /// The next ones, waiting for them. Cancel safe.
    async fn next(&mut self, ends_only: bool) -> Result<JobChanges, Error>;
}

impl JobFeed {
    pub(crate) fn new(source: Box<dyn JobFeedSource>) -> Self {
        Self { source, ends_only: false }
    }

    /// Whether only jobs that ended are wanted. Say so before the first call of [`next`](Self::next).
    #[must_use]
    pub fn ends_only(mut self, ends_only: bool) -> Self {
        self.ends_only = ends_only;
        self
    }

    /// The next jobs that changed, waiting for them. The first call says without any where the feed begins. Cancel safe.
    ///
    /// # Errors
    /// The store's, which refuses a cursor that it did not give.
    pub async fn next(&mut self) -> Result<JobChanges, Error> {
        self.source.next(self.ends_only).await
    }
}
