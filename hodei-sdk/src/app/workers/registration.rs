//! How an agent of another process becomes a worker: it trades a bootstrap token for a credential.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hodei_agent::{ConnectError, Connection};
use hodei_core::access::{RefusalReason, RefusedParty};
use hodei_core::event::Actor;
use hodei_core::id::WorkerId;
use hodei_core::port::{ClockExt, StoreError};
use hodei_core::time::{Moment, Timestamp};
use hodei_core::worker::{NotAdmitted, SecretHash, Worker, WorkerInput, worker_of};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::app::access::tokens::hash;
use crate::app::commit::CommitFailed;
use crate::app::workers::gateway::WorkerGateway;

/// When this process made which bootstrap tokens that may still be good, by both clocks.
pub(crate) type IssuedTokens = Arc<Mutex<BTreeMap<SecretHash, Moment>>>;

/// Why an agent was not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejected {
    #[error(transparent)]
    Agent(#[from] NotAdmitted),
    /// It names a worker that there is not, by which it can be told from others as it likes.
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
    /// Makes a token that names its worker, so that it is found without a search; stores its hash.
    pub(crate) async fn new_token(&self, worker: WorkerId) -> Result<String, ConnectError> {
        let token = named(worker, self.ports.ids.secret());
        let input = WorkerInput::IssueToken(hash(&token));
        match self.lifecycle.change(worker, Actor::Platform, input).await {
            Ok(Some(_)) => {
                self.note_issued(hash(&token));
                Ok(token)
            }
            Err(error) => Err(ConnectError::Unavailable(error.to_string())),
            Ok(None) => Err(ConnectError::Refused("the worker is not wanted any more".into())),
        }
    }

    /// Trades a bootstrap token for the credential of its worker. The credential follows from token and nonce, so an
    /// agent that did not hear the answer may ask again; neither is stored.
    pub(crate) async fn register(&self, token: &str, nonce: Uuid) -> Result<(WorkerId, String), Rejected> {
        self.admit(token, nonce).await.inspect_err(|rejected| self.note(token, rejected))
    }

    async fn admit(&self, token: &str, nonce: Uuid) -> Result<(WorkerId, String), Rejected> {
        if self.ports.tasks.stop().is_cancelled() {
            return Err(Rejected::Stopped);
        }
        let worker = worker_of(token).ok_or(Rejected::Stranger)?;
        let secret = Sha256::new().chain_update("hodei credential").chain_update(nonce).chain_update(token);
        let credential = named(worker, secret.finalize().into());
        let input = WorkerInput::Admit { incarnation: nonce, credential: hash(&credential) };
        // Twice: another agent with the same token may have been faster.
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

    /// The time of day as far as a token is concerned: from when it was made here the monotonic clock counts, so that one
    /// that is set makes the token good for neither longer nor shorter.
    fn now_for(&self, token: SecretHash) -> Timestamp {
        let now = self.ports.clock.moment();
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.get(&token).map_or(now.wall, |at| at.wall + now.monotonic.saturating_sub(at.monotonic))
    }

    /// The worker, and its agent, that a credential belongs to.
    pub(crate) async fn authenticate(&self, credential: &str) -> Result<(WorkerId, Uuid), Rejected> {
        self.known(credential).await.inspect_err(|rejected| self.note(credential, rejected))
    }

    async fn known(&self, credential: &str) -> Result<(WorkerId, Uuid), Rejected> {
        let worker = worker_of(credential).ok_or(Rejected::Stranger)?;
        let found = self.ports.store.workers(&[worker]).await?.pop().flatten().ok_or(Rejected::Stranger)?;
        match (found.credential(), found.incarnation()) {
            _ if found.is_terminated() => Err(NotAdmitted::Gone.into()),
            (Some(kept), Some(incarnation)) if kept == hash(credential) => Ok((worker, incarnation)),
            _ => Err(NotAdmitted::Unknown.into()),
        }
    }

    /// An agent was not let in, or did what no agent does.
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

    /// The agent that has this credential sent more than it may.
    pub(crate) fn sent_too_much(&self, credential: &str) {
        let party = RefusedParty::Agent { worker: worker_of(credential), attempt: None };
        self.lifecycle.authorizer.refused(party, RefusalReason::TooLarge);
    }

    /// Opens a stream for the agent that has this credential; a private one is read by nobody else.
    pub(crate) async fn open_with(
        &self,
        credential: &str,
        is_private: bool,
    ) -> Result<Result<Connection, ConnectError>, Rejected> {
        let (worker, incarnation) = self.authenticate(credential).await?;
        Ok(self.open_over(worker, incarnation, is_private).await)
    }

    /// The agent that has this credential goes; whatever it still had is lost.
    pub(crate) async fn unregister(&self, credential: &str) -> Result<(), Rejected> {
        let (worker, _) = self.authenticate(credential).await?;
        // On a task of its own: the worker is destroyed, and with it the call that asks for it.
        let lifecycle = self.lifecycle.clone();
        self.ports.tasks.spawn("end of a worker", async move { lifecycle.leave(worker).await });
        Ok(())
    }
}

fn named(worker: WorkerId, secret: [u8; 32]) -> String {
    format!("{worker}.{}", SecretHash::from_bytes(secret))
}
