//! Registration of agents that run in another process: an agent trades its bootstrap token for a credential.

use std::sync::PoisonError;

use hodei_agent::{ConnectError, Connection};
use hodei_core::access::{RefusalReason, RefusedParty};
use hodei_core::event::Actor;
use hodei_core::id::WorkerId;
use hodei_core::port::{ClockExt, StoreError};
use hodei_core::time::Timestamp;
use hodei_core::worker::{NotAdmitted, SecretHash, Worker, WorkerInput, worker_of};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::app::access::tokens::hash;
use crate::app::commit::CommitFailed;
use crate::app::workers::gateway::WorkerGateway;

/// Reason for which an agent is not admitted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejected {
    #[error(transparent)]
    Agent(#[from] NotAdmitted),
    /// The token names no known worker. Its worker id is not recorded, since the sender can choose any.
    #[error("{}", NotAdmitted::Unknown)]
    Stranger,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the platform is shutting down")]
    Stopped,
}

impl From<CommitFailed> for Rejected {
    fn from(error: CommitFailed) -> Self {
        match error {
            CommitFailed::Store(error) => Self::Store(error),
            CommitFailed::Stopped => Self::Stopped,
        }
    }
}

impl WorkerGateway {
    /// Issues a bootstrap token and stores its hash. The token contains the id of its worker, so looking it up needs no
    /// search.
    pub(crate) async fn new_token(&self, worker: WorkerId) -> Result<String, ConnectError> {
        let token = prefixed_secret(worker, self.ports.ids.secret());
        let input = WorkerInput::IssueToken(hash(&token));
        match self.lifecycle.change(worker, Actor::Platform, input).await {
            Ok(Some(_)) => {
                self.note_issued(hash(&token));
                Ok(token)
            }
            Err(error) => Err(ConnectError::Unavailable(error.to_string())),
            Ok(None) => Err(ConnectError::Refused(
                "the worker is terminated or unknown; start no agent for it".into(),
            )),
        }
    }

    /// Trades a bootstrap token for the credential of its worker. The credential is derived from token and nonce, so an
    /// agent that missed the answer can repeat the call with the same nonce. The store keeps only the hashes of token
    /// and credential.
    pub(crate) async fn register(&self, token: &str, nonce: Uuid) -> Result<(WorkerId, String), Rejected> {
        self.admit(token, nonce).await.inspect_err(|rejected| self.note(token, rejected))
    }

    async fn admit(&self, token: &str, nonce: Uuid) -> Result<(WorkerId, String), Rejected> {
        if self.ports.tasks.stop().is_cancelled() {
            return Err(Rejected::Stopped);
        }
        let worker = worker_of(token).ok_or(Rejected::Stranger)?;
        let secret = Sha256::new().chain_update("hodei credential").chain_update(nonce).chain_update(token);
        let credential = prefixed_secret(worker, secret.finalize().into());
        let input = WorkerInput::Admit { incarnation: nonce, credential: hash(&credential) };
        // The second turn reads the result: this agent's admission, or that of another agent with the same token.
        for _ in 0..2 {
            let found =
                self.ports.store.workers(&[worker]).await?.pop().flatten().ok_or(Rejected::Stranger)?;
            found.admits(hash(token), nonce, self.now_for(hash(token)))?;
            if found.incarnation() == Some(nonce) {
                return Ok((worker, credential));
            }
            self.lifecycle.change(worker, Actor::Agent, input.clone()).await?;
        }
        Err(NotAdmitted::Used.into())
    }

    fn note_issued(&self, token: SecretHash) {
        let now = self.ports.clock.moment();
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.retain(|_, at| now.monotonic.saturating_sub(at.monotonic) <= Worker::TOKEN_LIFE);
        issued.insert(token, now);
    }

    /// Returns the time to check a token's expiry against. For a token issued by this process it counts from the issue
    /// on the monotonic clock, so that setting the wall clock neither extends nor shortens the token's life.
    fn now_for(&self, token: SecretHash) -> Timestamp {
        let now = self.ports.clock.moment();
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.get(&token).map_or(now.wall, |at| at.wall + now.monotonic.saturating_sub(at.monotonic))
    }

    /// Returns the worker that a credential belongs to, and the incarnation of its agent.
    pub(crate) async fn authenticate(&self, credential: &str) -> Result<(WorkerId, Uuid), Rejected> {
        self.resolve_credential(credential).await.inspect_err(|rejected| self.note(credential, rejected))
    }

    async fn resolve_credential(&self, credential: &str) -> Result<(WorkerId, Uuid), Rejected> {
        let worker = worker_of(credential).ok_or(Rejected::Stranger)?;
        let found = self.ports.store.workers(&[worker]).await?.pop().flatten().ok_or(Rejected::Stranger)?;
        match (found.credential(), found.incarnation()) {
            _ if found.is_terminated() => Err(NotAdmitted::Gone.into()),
            (Some(kept), Some(incarnation)) if kept == hash(credential) => Ok((worker, incarnation)),
            _ => Err(NotAdmitted::Unknown.into()),
        }
    }

    /// Records a refused agent as an access refusal. Store failures and a shutdown are not refusals.
    fn note(&self, secret: &str, rejected: &Rejected) {
        let reason = match rejected {
            Rejected::Stranger | Rejected::Agent(NotAdmitted::Unknown) => RefusalReason::UnknownToken,
            Rejected::Agent(NotAdmitted::Expired) => RefusalReason::ExpiredToken,
            Rejected::Agent(NotAdmitted::Used) => RefusalReason::UsedToken,
            Rejected::Agent(NotAdmitted::Gone) => RefusalReason::GoneWorker,
            Rejected::Store(_) | Rejected::Stopped => return,
        };
        let worker = worker_of(secret).filter(|_| !matches!(rejected, Rejected::Stranger));
        let party = RefusedParty::Agent { worker, attempt: None };
        self.lifecycle.authorizer.refused(party, reason);
    }

    /// Records that the agent with this credential sent a message over the size limit.
    pub(crate) fn sent_too_much(&self, credential: &str) {
        let party = RefusedParty::Agent { worker: worker_of(credential), attempt: None };
        self.lifecycle.authorizer.refused(party, RefusalReason::TooLarge);
    }

    /// Opens a stream for the agent with this credential. `is_private` says that no third party can read the stream.
    pub(crate) async fn open_with(
        &self,
        credential: &str,
        is_private: bool,
    ) -> Result<Result<Connection, ConnectError>, Rejected> {
        let (worker, incarnation) = self.authenticate(credential).await?;
        Ok(self.open_over(worker, incarnation, is_private).await)
    }

    /// Terminates the worker of the agent with this credential. Its open attempts are lost.
    pub(crate) async fn unregister(&self, credential: &str) -> Result<(), Rejected> {
        let (worker, _) = self.authenticate(credential).await?;
        // On its own task: destroying the worker also ends the call that requests it.
        let lifecycle = self.lifecycle.clone();
        self.ports.tasks.spawn("end of a worker", async move { lifecycle.leave(worker).await });
        Ok(())
    }
}

fn prefixed_secret(worker: WorkerId, secret: [u8; 32]) -> String {
    format!("{worker}.{}", SecretHash::from_bytes(secret))
}
