use serde::{Deserialize, Serialize};

use super::{Action, Who};
use crate::id::{AttemptId, WorkerId};
use crate::job::TenantId;

/// Who was refused something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedParty {
    /// Somebody whom no token makes known.
    Stranger {
        /// The service that it called; nothing of what it said.
        service: String,
    },
    /// A client.
    Client {
        /// How it is known.
        who: Who,
        /// Whose jobs it may see.
        tenant: TenantId,
    },
    /// An agent.
    Agent {
        /// The worker that it said or is known to be.
        worker: Option<WorkerId>,
        /// The attempt that it spoke of.
        attempt: Option<AttemptId>,
    },
    /// Others, of whom there were too many to tell apart.
    Others,
}

/// Why somebody was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// It showed no token, or none that anybody made.
    UnknownToken,
    /// Its token's time is over.
    ExpiredToken,
    /// Its token was taken back.
    RevokedToken,
    /// Its bootstrap token was used by another agent.
    UsedToken,
    /// Its worker is terminated.
    GoneWorker,
    /// Its role is too low for this.
    Role(Action),
    /// It spoke of an attempt that was never its own.
    ForeignAttempt,
    /// It sent a message beyond the limit.
    TooLarge,
    /// Of several kinds.
    Several,
}
