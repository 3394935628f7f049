use std::sync::Arc;

use hodei_core::access::{Action, Caller};
use hodei_core::decision::Aggregate;
use hodei_core::event::Actor;
use hodei_core::id::JobId;
use hodei_core::job::{Job, JobInput, Refused, step};
use hodei_core::port::{Clock, CommitError, Store};

use super::{AuditService, Committer};
use crate::Error;

/// Cancels jobs.
#[derive(Debug, Clone)]
pub(crate) struct CancelJobUseCase {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) committer: Committer,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) audit: AuditService,
}

impl CancelJobUseCase {
    /// Cancels a job that waits, or asks for the end of one that runs. Asking twice is asking once.
    pub(crate) async fn cancel(&self, caller: &Caller, id: JobId) -> Result<Arc<Job>, Error> {
        self.audit.allow(caller, Action::CancelJobs)?;
        // Each turn somebody else changed the job in between.
        for _ in 0..8 {
            let job = self.store.jobs(&[id]).await?.pop().flatten();
            let job = job.filter(|job| *job.tenant() == caller.tenant).ok_or(Error::NotFound(id))?;
            let decision = match step(Some(&job), JobInput::Cancel, self.clock.now()) {
                Ok(decision) => decision,
                Err(Refused::Unchanged) => return Ok(job),
                Err(_) => return Err(Error::Ended { job: id, status: job.status() }),
            };
            match self.committer.commit_one(Actor::Client, decision).await? {
                Ok(Aggregate::Job(job)) => return Ok(job),
                Err(CommitError::Conflict { .. }) => {}
                _ => return Err(Error::Contended),
            }
        }
        Err(Error::Contended)
    }
}
