//! Refused requests, as the audit records them.

use serde::{Deserialize, Serialize};

use super::{Action, Who};
use crate::id::{AttemptId, WorkerId};
use crate::job::TenantId;

/// The party whose request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedParty {
    /// A caller without a valid token.
    Stranger {
        /// The service that it called; nothing of its request is recorded.
        service: String,
    },
    /// A client.
    Client {
        /// How the client is authenticated.
        who: Who,
        /// Tenant of the client.
        tenant: TenantId,
    },
    /// An agent.
    Agent {
        /// The worker that it claims or is known to be.
        worker: Option<WorkerId>,
        /// The attempt in its message.
        attempt: Option<AttemptId>,
    },
    /// Further parties, too many to record each.
    Others,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// The token is missing or unknown.
    UnknownToken,
    /// The token expired.
    ExpiredToken,
    /// The token was revoked.
    RevokedToken,
    /// Another agent used the bootstrap token.
    UsedToken,
    /// The worker is terminated.
    GoneWorker,
    /// The role is too low for this action.
    Role(Action),
    /// The message names an attempt that was never assigned to the worker.
    ForeignAttempt,
    /// The message is over the size limit.
    TooLarge,
    /// Several different reasons.
    Several,
}
