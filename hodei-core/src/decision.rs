//! What a transition gives: the next state, the events that tell of it, the effects that follow its commit.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::access::AccessToken;
use crate::event::DomainEvent;
use crate::id::{AttemptId, JobId, ProviderId, SecretId, StoreId, TokenId, WorkerId};
use crate::job::Job;
use crate::provider::Provider;
use crate::secret::Secret;
use crate::time::Timestamp;
use crate::worker::Worker;

/// A change that is decided and not yet stored. Only the committer stores one.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What the store must hold for it to be valid.
    pub expect: Expect,
    /// The state that replaces it.
    pub next: Aggregate,
    /// When it was decided; its events carry it.
    pub at: Timestamp,
    /// Stored in the same transaction; never empty.
    pub events: Vec<DomainEvent>,
    /// Run after the commit. They may be lost: a sweep finds each again from the state.
    pub effects: Vec<Effect>,
}

/// The condition of a compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// There is no such aggregate yet.
    Absent,
    /// It has this version.
    Version(u64),
}

impl Expect {
    /// The version that the store must hold; `None` where it must hold none.
    pub fn version(self) -> Option<u64> {
        match self {
            Self::Absent => None,
            Self::Version(version) => Some(version),
        }
    }
}

/// A state of one of the aggregates.
#[derive(Debug, Clone, PartialEq)]
pub enum Aggregate {
    /// A job.
    Job(Arc<Job>),
    /// A worker.
    Worker(Arc<Worker>),
    /// A provider.
    Provider(Arc<Provider>),
    /// A secret, sealed.
    Secret(Arc<Secret>),
    /// A token for clients.
    Token(Arc<AccessToken>),
}

impl Aggregate {
    /// Which aggregate it is.
    pub fn id(&self) -> AggregateId {
        match self {
            Self::Job(job) => AggregateId::Job(job.id()),
            Self::Worker(worker) => AggregateId::Worker(worker.id()),
            Self::Provider(provider) => AggregateId::Provider(provider.id()),
            Self::Secret(secret) => AggregateId::Secret(secret.id()),
            Self::Token(token) => AggregateId::Token(token.id()),
        }
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        match self {
            Self::Job(job) => job.version(),
            Self::Worker(worker) => worker.version(),
            Self::Provider(provider) => provider.version(),
            Self::Secret(secret) => secret.version(),
            Self::Token(token) => token.version(),
        }
    }
}

/// The key of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AggregateId {
    /// A job.
    Job(JobId),
    /// A worker.
    Worker(WorkerId),
    /// A provider.
    Provider(ProviderId),
    /// A secret.
    Secret(SecretId),
    /// A token for clients.
    Token(TokenId),
    /// The platform itself, which has no state of its own.
    Platform(StoreId),
}

/// Something to do once a decision is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send the job to its worker.
    RunJob {
        /// The worker.
        worker: WorkerId,
        /// The job.
        job: JobId,
    },
    /// Tell a worker to stop an attempt.
    StopAttempt {
        /// The worker.
        worker: WorkerId,
        /// The attempt.
        attempt: AttemptId,
        /// The number of its assignment.
        dispatch: u64,
        /// Between TERM and KILL.
        grace: Duration,
    },
    /// Tell a worker to take nothing more and leave.
    DrainWorker(WorkerId),
    /// Have the provider remove the worker with all that its jobs left.
    DestroyWorker(WorkerId),
}

/// How well a worker suited a job when it was given to it, with the part of each strategy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Score {
    /// Each strategy's name and weighted part.
    pub parts: Vec<(Cow<'static, str>, f64)>,
}

impl Score {
    /// The sum.
    pub fn total(&self) -> f64 {
        self.parts.iter().map(|(_, part)| part).sum()
    }
}
