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

/// A stored intent to create one worker. Everything a provider makes for it carries these ids as labels, and
/// names derive from `id`, so that creating it twice finds the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerOrder {
    /// The intent.
    pub id: OrderId,
    /// The worker it is for.
    pub worker: WorkerId,
    /// Who carries it out.
    pub provider: ProviderId,
    /// Whose the worker is.
    pub owner: StoreId,
    /// What it should hold.
    pub capacity: WorkerCapacity,
    /// Labels it should carry.
    pub labels: Labels,
    /// When it should leave.
    pub lifetime: Lifetime,
}

/// Where a worker stands.
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
    /// Takes nothing more.
    Draining {
        /// Since when.
        since: Timestamp,
    },
    /// Gone.
    Terminated {
        /// When that was decided.
        at: Timestamp,
        /// Why.
        cause: TerminationCause,
    },
}

/// Why a worker is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TerminationCause {
    /// It drained and left.
    Retired,
    /// Its lease ran out, or its provider does not have it any more.
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
    /// Bootstrap tokens that are remembered: a provider may be asked to create a worker several times, and any of
    /// the tokens may have reached its agent.
    pub const MAX_TOKENS: usize = 8;
    /// How long a worker that has had no job waits for one, however short its idle time: it was ordered for a job.
    pub const FIRST_JOB: Duration = Duration::from_secs(1);
    /// How long a bootstrap token is good for.
    pub const TOKEN_LIFE: Duration = Duration::from_secs(300);

    /// Whether an agent with this bootstrap token and nonce may be the worker. The same agent may ask again.
    ///
    /// # Errors
    /// Why not.
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

    /// The hash of its agent's session credential, once it was let in over a network.
    pub fn credential(&self) -> Option<SecretHash> {
        self.credential
    }

    /// Its id.
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// What it was created from.
    pub fn order(&self) -> &WorkerOrder {
        &self.order
    }

    /// Rises by one with each transition, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Where it stands.
    pub fn state(&self) -> &WorkerState {
        &self.state
    }

    /// Where it stands, without data.
    pub fn status(&self) -> WorkerStatus {
        match self.state {
            WorkerState::Registering => WorkerStatus::Registering,
            WorkerState::Ready { .. } => WorkerStatus::Ready,
            WorkerState::Busy => WorkerStatus::Busy,
            WorkerState::Draining { .. } => WorkerStatus::Draining,
            WorkerState::Terminated { .. } => WorkerStatus::Terminated,
        }
    }

    /// What it holds: as its agent says, before that as ordered.
    pub fn capacity(&self) -> &WorkerCapacity {
        &self.capacity
    }

    /// Its labels: as ordered, with those of its agent.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// What its provider calls it.
    pub fn reference(&self) -> Option<&str> {
        self.reference.as_deref()
    }

    /// Its agent, once it connected: no other may speak for the worker.
    pub fn incarnation(&self) -> Option<Uuid> {
        self.incarnation
    }

    /// Jobs it was given so far. Exact only where its lifetime limits them: else a row is not written for each batch.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// When it was ordered.
    pub fn ordered_at(&self) -> Timestamp {
        self.ordered_at
    }

    /// True when it is gone.
    pub fn is_terminated(&self) -> bool {
        matches!(self.state, WorkerState::Terminated { .. })
    }

    /// How many more jobs its lifetime lets it take; `None` is no limit, and it is 0 when it takes nothing now.
    pub fn jobs_left(&self) -> Option<u32> {
        match self.state {
            WorkerState::Ready { .. } | WorkerState::Busy => {
                self.order.lifetime.max_jobs.map(|max| max.saturating_sub(self.taken))
            }
            _ => Some(0),
        }
    }

    /// When its lifetime policy wants it to drain, given whether it has jobs; `None` is not by itself.
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
