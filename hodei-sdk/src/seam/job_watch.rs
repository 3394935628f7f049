//! The states of one job, as a stream.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::job::Job;

use crate::Error;

/// The states of one job, as they come. It reads by the job's version, never from the feed of all.
#[derive(Debug)]
pub struct JobWatch {
    source: Box<dyn StateSource>,
    seen: u64,
    over: bool,
    ends_only: bool,
}

/// Where the states of a job come from: the store of this platform, or a daemon.
#[async_trait]
pub(crate) trait StateSource: Debug + Send {
    /// The first state with a version above `seen`, waiting for it; with `ends_only`, the terminal one. `None` when
    /// that was seen. Cancel safe.
    async fn newer(&mut self, seen: u64, ends_only: bool) -> Result<Option<Arc<Job>>, Error>;
}

impl JobWatch {
    pub(crate) fn new(source: Box<dyn StateSource>) -> Self {
        Self { source, seen: 0, over: false, ends_only: false }
    }

    /// Passes over versions up to this one; 0 passes over none.
    #[must_use]
    pub fn after(mut self, version: u64) -> Self {
        self.seen = version;
        self
    }

    /// Whether only the terminal state is wanted.
    #[must_use]
    pub fn ends_only(mut self, ends_only: bool) -> Self {
        self.ends_only = ends_only;
        self
    }

    /// The next state that is newer than the last; the first call gives the present one. States in between may
    /// be passed over. `None` after the terminal one. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such job, or the store's.
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

    /// Waits for the end of the job. Cancel safe.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn ended(&mut self) -> Result<Arc<Job>, Error> {
        loop {
            // From the beginning: the end may have been seen.
            if let Some(job) = self.source.newer(0, true).await? {
                return Ok(job);
            }
        }
    }
}
