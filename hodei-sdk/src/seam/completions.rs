//! The completions of a set of jobs, as a stream.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::job::Job;

use crate::Error;

/// Returns each of a set of jobs once when it has ended, in no particular order.
#[derive(Debug)]
pub struct JobCompletions {
    source: Box<dyn CompletionSource>,
}

/// The source of completions: the store of this platform, or a daemon.
#[async_trait]
pub(crate) trait CompletionSource: Debug + Send {
    /// Waits for the next job that ends; `None` after the last. Cancel safe.
    async fn next(&mut self) -> Result<Option<Arc<Job>>, Error>;
}

impl JobCompletions {
    pub(crate) fn new(source: Box<dyn CompletionSource>) -> Self {
        Self { source }
    }

    /// Waits for the next job that ends and returns it; `None` after the last. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotFound`] if one of them does not exist, or the store's.
    pub async fn next(&mut self) -> Result<Option<Arc<Job>>, Error> {
        self.source.next().await
    }
}
