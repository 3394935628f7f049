//! Cancellation of jobs.

use std::sync::Arc;

use hodei_core::access::{Action, Caller};
use hodei_core::decision::{Aggregate, Effect};
use hodei_core::event::Actor;
use hodei_core::id::JobId;
use hodei_core::job::{Job, JobInput, Refused, step};
use hodei_core::port::{CommitError, StoreError};

use crate::Error;
use crate::app::access::authorizer::Authorizer;
use crate::app::commit::{CommitFailed, Committer};
use crate::app::dispatch::messages::cancel_of;
use crate::app::ports::Ports;
use crate::app::workers::stream_registry::StreamRegistry;

/// Cancels jobs at a client's request.
#[derive(Debug, Clone)]
pub(crate) struct CancelJobUseCase {
    pub(crate) ports: Arc<Ports>,
    pub(crate) committer: Committer,
    pub(crate) authorizer: Authorizer,
    pub(crate) streams: StreamRegistry,
}

/// Commits of one cancel that are tried while other writers cause conflicts.
const MAX_COMMIT_TRIES: usize = 8;

impl CancelJobUseCase {
    /// Cancels a waiting job, or requests the end of a running one. Idempotent.
    ///
    /// # Errors
    /// `Error::NotFound` when the tenant has no such job, `Error::Ended` when it has ended, `Error::Contended` when
    /// conflicts persist.
    pub(crate) async fn cancel(&self, caller: &Caller, id: JobId) -> Result<Arc<Job>, Error> {
        self.authorizer.allow(caller, Action::CancelJobs)?;
        for _ in 0..MAX_COMMIT_TRIES {
            let job = self.ports.store.jobs(&[id]).await?.pop().flatten();
            let job = job.filter(|job| *job.tenant() == caller.tenant).ok_or(Error::NotFound(id))?;
            let decision = match step(Some(&job), JobInput::Cancel, self.ports.clock.now()) {
                Ok(decision) => decision,
                Err(Refused::Unchanged) => return Ok(job),
                Err(_) => return Err(Error::Ended { job: id, status: job.status() }),
            };
            let effects = decision.effects.clone();
            match self.committer.commit_one(Actor::Client, decision).await {
                Ok(Ok(Aggregate::Job(job))) => return Ok(job),
                Ok(Err(CommitError::Conflict { .. })) => {}
                Ok(_) => return Err(Error::Contended),
                Err(CommitFailed::Store(error)) => return Err(self.stop_unstored(&effects, error)),
                Err(stopped) => return Err(stopped.into()),
            }
        }
        Err(Error::Contended)
    }

    /// Sends a cancel that cannot be stored to the agent anyway, since stopping the job may free the disk. The agent's
    /// report then ends the job. Returns the error for the caller.
    fn stop_unstored(&self, effects: &[Effect], error: StoreError) -> Error {
        let is_sent = effects.iter().any(|effect| match effect {
            Effect::StopAttempt { worker, attempt, dispatch, grace } => {
                self.streams.send(*worker, cancel_of(*attempt, *dispatch, *grace))
            }
            _ => false,
        });
        match error {
            StoreError::Unavailable { retry_after, why } if is_sent => {
                let why = format!(
                    "{why}; the job was told to stop, and its end is stored as soon as the store accepts it"
                );
                Error::Store(StoreError::Unavailable { retry_after, why })
            }
            error => Error::Store(error),
        }
    }
}
