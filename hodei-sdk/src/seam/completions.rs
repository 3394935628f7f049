//! The ends of some jobs, as a stream.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::job::Job;

use crate::Error;

/// The ends of some jobs, each once, as they come, in no order in particular.
#[derive(Debug)]
pub struct JobCompletions {
    source: Box<dyn CompletionSource>,
}

/// Where the ends of jobs come from: the store of this platform, or a daemon.
#[async_trait]
pub(crate) trait CompletionSource: Debug + Send {
    /// The next one, waiting for it; `None` after the last. Cancel safe.
    async fn next(&mut self) -> Result<Option<Arc<Job>>, Error>;
}

impl JobCompletions {
    pub(crate) fn new(source: Box<dyn CompletionSource>) -> Self {
        Self { source }
    }

    /// The next job that ended; waits for it. `None` after the last. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotFound`] when one of them does not exist, or the store's.
    pub async fn next(&mut self) -> Result<Option<Arc<Job>>, Error> {
        self.source.next().await
    }
}
