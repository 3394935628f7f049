//! Domain events as values. Events are stored with the state that they lead to; four kinds are only on the bus.

mod catalogue;
pub mod channel;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use catalogue::{Catalogue, catalogue};

use crate::access::{RefusalReason, RefusedParty, TokenTerms};
use crate::aggregate_id::AggregateId;
use crate::id::{AttemptId, EventId, JobId, WorkerId};
use crate::job::{FailureCause, JobSpec, Labels, Outcome, Priority, Run, TenantId, WaitReason};
use crate::provider::{ProviderHealth, ProviderProfile};
use crate::score::Score;
use crate::secret::SecretName;
use crate::time::Timestamp;
use crate::worker::{SecretHash, TerminationCause, WorkerCapacity, WorkerOrder};

/// Everything that happens on the platform. The [`Envelope`] names the aggregate.
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
    /// On the bus only: `attempts` wait for a worker whose stream another daemon holds, and the worker is to give
    /// `recalled` back.
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

/// The budget that an attempt is charged to when it closes without ending its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Charge {
    /// The user's retries.
    User,
    /// The infrastructure budget.
    Infrastructure,
    /// No budget: it never started, the platform ended it, or it was lost with a worker that another job may have
    /// ended.
    Nobody,
}

/// Log chunks that will never arrive: from `from` up to, not including, `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogGap {
    /// The first missing sequence number.
    pub from: u64,
    /// The first sequence number after the gap.
    pub to: u64,
    /// Bytes of output in the gap; 0 when unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// An event with its aggregate, time, actor and cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Unique id of the event.
    pub id: EventId,
    /// Its number in the sequence of the store, from 1; 0 for an event that is only on the bus.
    pub sequence: u64,
    /// The aggregate that it belongs to.
    pub aggregate: AggregateId,
    /// Version of the aggregate after the transition, which all events of the transition share.
    pub version: u64,
    /// The request that it belongs to: equal for all events that one request causes.
    pub correlation: EventId,
    /// The event that caused it.
    pub causation: Option<EventId>,
    /// The actor that caused it.
    pub actor: Actor,
    /// Time of the decision.
    pub at: Timestamp,
    /// Version of the event's schema, now 1.
    pub schema: u16,
    /// The event itself.
    pub event: DomainEvent,
}

impl Envelope {
    /// Makes an envelope for an event outside of any transition, such as one that is only on the bus.
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

/// The kind of actor that causes an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// A caller of the public API.
    Client,
    /// The coordinator's plan.
    Coordinator,
    /// A worker's agent.
    Agent,
    /// The platform itself: timers, sweeps, provisioning.
    Platform,
}
