//! What happened, as values. Events are stored with the state they tell of; two are only ever on the bus.

mod catalogue;
pub mod channel;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use catalogue::{Catalogue, catalogue};

use crate::access::{RefusalReason, RefusedParty, TokenTerms};
use crate::decision::{AggregateId, Score};
use crate::id::{AttemptId, EventId, JobId, WorkerId};
use crate::job::{FailureCause, JobSpec, Labels, Outcome, Priority, Run, TenantId, WaitReason};
use crate::provider::{ProviderHealth, ProviderProfile};
use crate::secret::SecretName;
use crate::time::Timestamp;
use crate::worker::{SecretHash, TerminationCause, WorkerCapacity, WorkerOrder};

/// Everything that happens here. The aggregate it happened to is in the [`Envelope`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "PascalCase", rename_all_fields = "snake_case")]
#[allow(missing_docs, reason = "docs/events.md describes each from the catalogue")]
pub enum DomainEvent {
    JobCreated {
        job: JobId,
        tenant: TenantId,
        spec: Arc<JobSpec>,
        retry_of: Option<JobId>,
    },
    JobWaiting {
        until: Timestamp,
        reason: WaitReason,
    },
    JobQueued {
        priority: Priority,
    },
    JobAssigned {
        worker: WorkerId,
        attempt: u32,
        dispatch: u64,
        #[serde(default)]
        score: Score,
    },
    JobStarted {
        attempt: u32,
        started_at: Timestamp,
    },
    JobCancelRequested,
    AttemptClosed {
        attempt: u32,
        outcome: Option<Outcome>,
        charge: Charge,
    },
    LogGapRecorded {
        attempt: u32,
        gap: LogGap,
    },
    JobSucceeded {
        run: Run,
    },
    JobFailed {
        cause: FailureCause,
        run: Option<Run>,
    },
    JobCancelled {
        run: Option<Run>,
    },
    JobTimedOut {
        run: Option<Run>,
    },

    WorkerProvisioningRequested {
        worker: WorkerId,
        order: WorkerOrder,
    },
    WorkerProvisioned {
        reference: String,
    },
    WorkerTokenIssued {
        token: SecretHash,
    },
    WorkerAdmitted {
        incarnation: Uuid,
        credential: SecretHash,
    },
    WorkerRegistered {
        capacity: WorkerCapacity,
        labels: Labels,
        incarnation: Uuid,
    },
    WorkerBusy {
        taken: u32,
    },
    WorkerIdle,
    WorkerDraining {
        reason: String,
    },
    WorkerLost {
        why: String,
    },
    WorkerTerminated {
        cause: TerminationCause,
    },

    ProviderRegistered {
        profile: ProviderProfile,
    },
    ProviderUpdated {
        profile: ProviderProfile,
    },
    ProviderHealthChanged {
        health: ProviderHealth,
    },

    SecretStored {
        tenant: TenantId,
        name: SecretName,
    },
    SecretDeleted {
        tenant: TenantId,
        name: SecretName,
    },

    TokenCreated {
        terms: TokenTerms,
        expires_at: Option<Timestamp>,
    },
    TokenRevoked,

    AccessRefused {
        party: RefusedParty,
        reason: RefusalReason,
        times: u64,
    },

    /// On the bus only: a worker has room, after these attempts were closed.
    WorkerReadyForJob {
        closed: Vec<AttemptId>,
    },
    /// On the bus only: these attempts wait for a worker whose stream another daemon holds, and those are to be given
    /// back by it.
    WorkerDispatchRequested {
        attempts: Vec<AttemptId>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        recalled: Vec<AttemptId>,
    },
    /// On the bus only: more output of an attempt is stored.
    JobOutputStored {
        attempt: u32,
    },
    /// On the bus only: a worker renewed its lease for the `renewals`th time.
    WorkerHeartbeat {
        renewals: u64,
    },
}

/// Who pays for an attempt that closed without ending its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Charge {
    /// The user's retries.
    User,
    /// The infrastructure budget.
    Infrastructure,
    /// Nobody: it never started, the platform ended it, or it was lost with a worker that others may have ended.
    Nobody,
}

/// Log chunks that are missing for ever: from `from` up to, not including, `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogGap {
    /// The first missing sequence number.
    pub from: u64,
    /// The first after it that is not missing.
    pub to: u64,
    /// Bytes of output in them; 0 when their number is unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// An event with where, when and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Unique.
    pub id: EventId,
    /// Its place in the store's one sequence, from 1; 0 on the bus only.
    pub sequence: u64,
    /// What it happened to.
    pub aggregate: AggregateId,
    /// The aggregate's version after the transition; several events of one transition share it.
    pub version: u64,
    /// The request it belongs to: equal for all that one request brought about.
    pub correlation: EventId,
    /// The event that led to it.
    pub causation: Option<EventId>,
    /// Who did it.
    pub actor: Actor,
    /// When it was decided.
    pub at: Timestamp,
    /// The version of the event's own form, now 1.
    pub schema: u16,
    /// What happened.
    pub event: DomainEvent,
}

impl Envelope {
    /// One that belongs to no transition, as those that only travel on the bus.
    pub fn hint(
        id: EventId,
        at: Timestamp,
        aggregate: AggregateId,
        actor: Actor,
        event: DomainEvent,
    ) -> Self {
        let (sequence, version, schema) = (0, 0, 1);
        let (correlation, causation) = (id, None);
        Self { id, sequence, aggregate, version, correlation, causation, actor, at, schema, event }
    }
}

/// Who brought an event about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// Somebody outside, by the public face.
    Client,
    /// The coordinator's plan.
    Coordinator,
    /// A worker's agent.
    Agent,
    /// The platform itself: timers, sweeps, provisioning.
    Platform,
}
