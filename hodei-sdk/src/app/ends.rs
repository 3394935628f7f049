use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::JobId;
use hodei_core::job::{Job, TenantId};

use super::JobQueries;
use crate::Error;

/// The ends of some jobs, as they come, in no order in particular.
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

/// Ends from the store of this platform. Each wait is for one job: by the time that it is over most others are.
#[derive(Debug)]
pub(super) struct StoredEnds {
    pub(super) queries: JobQueries,
    pub(super) tenant: TenantId,
    pub(super) left: VecDeque<JobId>,
}

#[async_trait]
impl EndSource for StoredEnds {
    async fn next(&mut self) -> Result<Option<Arc<Job>>, Error> {
        let Some(id) = self.left.front() else { return Ok(None) };
        let ended = self.queries.watch(&self.tenant, *id).ended().await?;
        self.left.pop_front();
        Ok(Some(ended))
    }
}
