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

/// Cancels jobs.
#[derive(Debug, Clone)]
pub(crate) struct CancelJobUseCase {
    pub(crate) ports: Arc<Ports>,
    pub(crate) committer: Committer,
    pub(crate) authorizer: Authorizer,
    pub(crate) streams: StreamRegistry,
}

impl CancelJobUseCase {
    /// Cancels a job that waits, or asks for the end of one that runs. Asking twice is asking once.
    pub(crate) async fn cancel(&self, caller: &Caller, id: JobId) -> Result<Arc<Job>, Error> {
        self.authorizer.allow(caller, Action::CancelJobs)?;
        // Each turn somebody else changed the job in between.
        for _ in 0..8 {
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

    /// A cancel that cannot be stored now reaches the agent all the same, which may be what makes room: its report ends
    /// the job then.
    fn stop_unstored(&self, effects: &[Effect], error: StoreError) -> Error {
        let is_told = effects.iter().any(|effect| match effect {
            Effect::StopAttempt { worker, attempt, dispatch, grace } => {
                self.streams.send(*worker, cancel_of(*attempt, *dispatch, *grace))
            }
            _ => false,
        });
        match error {
            StoreError::Unavailable { retry_after, why } if is_told => {
                let why =
                    format!("{why}; the job was told to stop, and its end is stored when that is possible");
                Error::Store(StoreError::Unavailable { retry_after, why })
            }
            error => Error::Store(error),
        }
    }
}
