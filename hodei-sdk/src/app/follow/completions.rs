use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::job::Job;

use crate::Error;
use crate::app::follow::job_states::JobStates;

/// The ends of some jobs, each once, as they come, in no order in particular.
#[derive(Debug)]
pub struct JobEnds {
    source: Box<dyn EndSource>,
}

/// Where the ends of jobs come from: the store of this platform, or a daemon.
#[async_trait]
pub(crate) trait EndSource: Debug + Send {
    /// The next one, waiting for it; `None` after the last. Cancel safe.
    async fn next(&mut self) -> Result<Option<Arc<Job>>, Error>;
}

impl JobEnds {
    pub(crate) fn new(source: Box<dyn EndSource>) -> Self {
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

/// Ends from the store of this platform.
#[derive(Debug)]
pub(crate) struct StoredEnds {
    pub(crate) states: JobStates,
    pub(crate) ready: VecDeque<Arc<Job>>,
}

#[async_trait]
impl EndSource for StoredEnds {
    async fn next(&mut self) -> Result<Option<Arc<Job>>, Error> {
        if self.ready.is_empty() {
            self.ready = self.states.next().await?.into();
        }
        Ok(self.ready.pop_front())
    }
}
