//! The result of a transition: the next state, its events, and the effects that follow its commit.

use std::sync::Arc;
use std::time::Duration;

use crate::access::AccessToken;
pub use crate::aggregate_id::AggregateId;
use crate::event::DomainEvent;
use crate::id::{AttemptId, JobId, WorkerId};
use crate::job::Job;
use crate::provider::Provider;
pub use crate::score::Score;
use crate::secret::Secret;
use crate::time::Timestamp;
use crate::worker::Worker;

/// A change that is decided and not stored yet. Only the committer stores decisions.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The condition on the stored state under which the decision is valid.
    pub expect: Expect,
    /// The state that replaces the stored one.
    pub next: Aggregate,
    /// Time of the decision, which its events carry.
    pub at: Timestamp,
    /// Events stored in the same transaction; never empty.
    pub events: Vec<DomainEvent>,
    /// Effects to run after the commit. They may be lost: a sweep derives each of them again from the state.
    pub effects: Vec<Effect>,
}

/// The condition of a compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The aggregate does not exist yet.
    Absent,
    /// The aggregate has this version.
    Version(u64),
}

impl Expect {
    /// Returns the version that the store must hold; `None` where the aggregate must be absent.
    pub fn version(self) -> Option<u64> {
        match self {
            Self::Absent => None,
            Self::Version(version) => Some(version),
        }
    }
}

/// The state of one aggregate, of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Aggregate {
    /// A job.
    Job(Arc<Job>),
    /// A worker.
    Worker(Arc<Worker>),
    /// A provider.
    Provider(Arc<Provider>),
    /// A secret, with its value sealed.
    Secret(Arc<Secret>),
    /// A token for clients.
    Token(Arc<AccessToken>),
}

impl Aggregate {
    /// Returns the key of the aggregate.
    pub fn id(&self) -> AggregateId {
        match self {
            Self::Job(job) => AggregateId::Job(job.id()),
            Self::Worker(worker) => AggregateId::Worker(worker.id()),
            Self::Provider(provider) => AggregateId::Provider(provider.id()),
            Self::Secret(secret) => AggregateId::Secret(secret.id()),
            Self::Token(token) => AggregateId::Token(token.id()),
        }
    }

    /// Returns the version of the aggregate.
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

/// An action to take once a decision is stored.
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
        /// Number of its assignment.
        dispatch: u64,
        /// Time between TERM and KILL.
        grace: Duration,
    },
    /// Tell a worker to take no more jobs, and to leave.
    DrainWorker(WorkerId),
}
