//! The worker aggregate: its order, its states and its lifetime. The transitions are in `machine.rs`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{IssuedToken, Lifetime, NotAdmitted, SecretHash, WorkerCapacity};
use crate::id::{OrderId, ProviderId, StoreId, WorkerId};
use crate::job::Labels;
use crate::time::Timestamp;

/// The worker aggregate: one incarnation, from its order to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    pub(super) id: WorkerId,
    pub(super) order: WorkerOrder,
    pub(super) version: u64,
    pub(super) state: WorkerState,
    pub(super) capacity: WorkerCapacity,
    pub(super) labels: Labels,
    pub(super) reference: Option<String>,
    pub(super) incarnation: Option<Uuid>,
    #[serde(default)]
    pub(super) tokens: Vec<IssuedToken>,
    #[serde(default)]
    pub(super) credential: Option<SecretHash>,
    pub(super) taken: u32,
    pub(super) ordered_at: Timestamp,
}

/// A stored order for one worker. Everything that a provider creates for it carries these ids as labels, and names
/// derive from `id`, so that a repeated create finds the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerOrder {
    /// Id of the order.
    pub id: OrderId,
    /// The ordered worker.
    pub worker: WorkerId,
    /// Provider that creates it.
    pub provider: ProviderId,
    /// Store that owns it.
    pub owner: StoreId,
    /// Ordered capacity.
    pub capacity: WorkerCapacity,
    /// Ordered labels.
    pub labels: Labels,
    /// Lifetime policy.
    pub lifetime: Lifetime,
}

/// The state of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Ordered or created, not connected yet.
    Registering,
    /// Connected, without a job.
    Ready {
        /// Since when it is idle.
        since: Timestamp,
    },
    /// Has jobs.
    Busy,
    /// Takes no more jobs.
    Draining {
        /// Since when it drains.
        since: Timestamp,
    },
    /// Gone.
    Terminated {
        /// Time of the termination.
        at: Timestamp,
        /// Why it is gone.
        cause: TerminationCause,
    },
}

/// Why a worker is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TerminationCause {
    /// It drained and left.
    Retired,
    /// Its lease expired, or its provider does not have it any more.
    Lost(String),
    /// It could not be created, or never connected.
    ProvisioningFailed(String),
    /// The platform shut down.
    Shutdown,
}

impl fmt::Display for TerminationCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retired => f.write_str("retired"),
            Self::Lost(why) => write!(f, "lost: {why}"),
            Self::ProvisioningFailed(why) => write!(f, "could not be created: {why}"),
            Self::Shutdown => f.write_str("the platform shut down"),
        }
    }
}

/// The states of a worker by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs, reason = "each is documented at WorkerState")]
pub enum WorkerStatus {
    Registering,
    Ready,
    Busy,
    Draining,
    Terminated,
}

impl WorkerStatus {
    /// The name in texts and JSON: upper case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registering => "REGISTERING",
            Self::Ready => "READY",
            Self::Busy => "BUSY",
            Self::Draining => "DRAINING",
            Self::Terminated => "TERMINATED",
        }
    }
}

impl Worker {
    /// Maximum number of remembered bootstrap tokens: the platform may call create several times for one worker, and
    /// any of the tokens may have reached its agent.
    pub const MAX_TOKENS: usize = 8;
    /// Minimum idle time of a worker that has had no job yet: it was ordered for a job.
    pub const FIRST_JOB: Duration = Duration::from_secs(1);
    /// How long a bootstrap token is valid.
    pub const TOKEN_LIFE: Duration = Duration::from_secs(300);

    /// Checks whether an agent with this bootstrap token and nonce may be the worker. The same agent may ask again.
    ///
    /// # Errors
    /// [`NotAdmitted`] says why the agent may not.
    pub fn admits(&self, token: SecretHash, nonce: Uuid, now: Timestamp) -> Result<(), NotAdmitted> {
        if self.is_terminated() {
            return Err(NotAdmitted::Gone);
        }
        let issued = self.tokens.iter().find(|issued| issued.hash == token).ok_or(NotAdmitted::Unknown)?;
        match self.incarnation {
            Some(first) if first == nonce => Ok(()),
            Some(_) => Err(NotAdmitted::Used),
            None if now.since(issued.at) > Self::TOKEN_LIFE => Err(NotAdmitted::Expired),
            None => Ok(()),
        }
    }

    /// Returns the hash of the session credential of its agent, once the agent was admitted over a network.
    pub fn credential(&self) -> Option<SecretHash> {
        self.credential
    }

    /// Returns the id.
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// Returns the order that it was created from.
    pub fn order(&self) -> &WorkerOrder {
        &self.order
    }

    /// Returns the version, which rises by one with each transition, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the state.
    pub fn state(&self) -> &WorkerState {
        &self.state
    }

    /// Returns the state without its data.
    pub fn status(&self) -> WorkerStatus {
        match self.state {
            WorkerState::Registering => WorkerStatus::Registering,
            WorkerState::Ready { .. } => WorkerStatus::Ready,
            WorkerState::Busy => WorkerStatus::Busy,
            WorkerState::Draining { .. } => WorkerStatus::Draining,
            WorkerState::Terminated { .. } => WorkerStatus::Terminated,
        }
    }

    /// Returns the capacity: as its agent reports it, before that as ordered.
    pub fn capacity(&self) -> &WorkerCapacity {
        &self.capacity
    }

    /// Returns the labels: the ordered ones, with those of its agent.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Returns the name of the worker at its provider.
    pub fn reference(&self) -> Option<&str> {
        self.reference.as_deref()
    }

    /// Returns the nonce of its agent, once that was admitted or connected: no other agent may be the worker.
    pub fn incarnation(&self) -> Option<Uuid> {
        self.incarnation
    }

    /// Returns the number of jobs that it was given so far. Exact only where its lifetime limits them: otherwise not
    /// every batch is written.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// Returns the time of the order.
    pub fn ordered_at(&self) -> Timestamp {
        self.ordered_at
    }

    /// Whether the worker is gone.
    pub fn is_terminated(&self) -> bool {
        matches!(self.state, WorkerState::Terminated { .. })
    }

    /// Returns how many more jobs its lifetime allows; `None` means no limit. 0 in a state in which it takes no jobs.
    pub fn jobs_left(&self) -> Option<u32> {
        match self.state {
            WorkerState::Ready { .. } | WorkerState::Busy => {
                self.order.lifetime.max_jobs.map(|max| max.saturating_sub(self.taken))
            }
            _ => Some(0),
        }
    }

    /// Returns when its lifetime policy makes it drain, in its current state; `None` when the policy never does.
    pub fn retires_at(&self) -> Option<Timestamp> {
        let lifetime = &self.order.lifetime;
        let aged = lifetime.max_age.map(|age| self.ordered_at + age);
        match self.state {
            WorkerState::Ready { since } => {
                let spent = self.jobs_left() == Some(0);
                let least = if self.taken == 0 { Self::FIRST_JOB } else { Duration::ZERO };
                let idle =
                    if spent { Some(Duration::ZERO) } else { lifetime.idle.map(|idle| idle.max(least)) };
                [idle.map(|idle| since + idle), aged].into_iter().flatten().min()
            }
            WorkerState::Busy => aged,
            _ => None,
        }
    }
}
