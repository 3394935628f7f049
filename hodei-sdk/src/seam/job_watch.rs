//! The states of one job, as a stream.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::job::Job;

use crate::Error;

/// Follows the states of one job. It reads by the version of the job, not from the feed of all events.
#[derive(Debug)]
pub struct JobWatch {
    source: Box<dyn StateSource>,
    seen: u64,
    over: bool,
    ends_only: bool,
}

/// The source of the states of a job: the store of this platform, or a daemon.
#[async_trait]
pub(crate) trait StateSource: Debug + Send {
    /// Waits for the first state with a version above `seen`, or for the terminal one if `ends_only` is set. `None` if
    /// the terminal state has been seen. Cancel safe.
    async fn newer(&mut self, seen: u64, ends_only: bool) -> Result<Option<Arc<Job>>, Error>;
}

impl JobWatch {
    pub(crate) fn new(source: Box<dyn StateSource>) -> Self {
        Self { source, seen: 0, over: false, ends_only: false }
    }

    /// Skips versions up to this one; 0 skips none.
    #[must_use]
    pub fn after(mut self, version: u64) -> Self {
        self.seen = version;
        self
    }

    /// Restricts the stream to the terminal state.
    #[must_use]
    pub fn ends_only(mut self, ends_only: bool) -> Self {
        self.ends_only = ends_only;
        self
    }

    /// Waits for the next newer state and returns it; the first call returns the current one. States in between may be
    /// skipped. `None` after the terminal one. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such job, or the store's.
    pub async fn next(&mut self) -> Result<Option<Arc<Job>>, Error> {
        if self.over {
            return Ok(None);
        }
        let state = self.source.newer(self.seen, self.ends_only).await?;
        match &state {
            Some(job) => (self.seen, self.over) = (job.version(), job.is_terminal()),
            None => self.over = true,
        }
        Ok(state)
    }

    /// Waits for the end of the job and returns its terminal state. Cancel safe.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn ended(&mut self) -> Result<Arc<Job>, Error> {
        loop {
            // From version 0: the terminal state may already have been seen.
            if let Some(job) = self.source.newer(0, true).await? {
                return Ok(job);
            }
        }
    }
}
