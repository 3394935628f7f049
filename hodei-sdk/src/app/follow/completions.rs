//! Stream of the ends of jobs, read from the store.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::job::Job;

use crate::Error;
use crate::app::follow::job_states::JobStates;
use crate::seam::CompletionSource;

/// Streams the ends of jobs from the store of this platform.
#[derive(Debug)]
pub(crate) struct StoredCompletions {
    pub(crate) states: JobStates,
    pub(crate) ready: VecDeque<Arc<Job>>,
}

#[async_trait]
impl CompletionSource for StoredCompletions {
    async fn next(&mut self) -> Result<Option<Arc<Job>>, Error> {
        if self.ready.is_empty() {
            self.ready = self.states.next().await?.into();
        }
        Ok(self.ready.pop_front())
    }
}
