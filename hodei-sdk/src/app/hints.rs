//! Hints: events that are published on the bus but not stored. A lost hint only costs time: sweeps find the change.

use hodei_core::decision::AggregateId;
use hodei_core::event::{Actor, DomainEvent, Envelope};
use hodei_core::id::{AttemptId, EventId, WorkerId};
use hodei_core::port::{Clock, IdGenerator};

/// Attempts that one hint names: a notification of a database has a small size limit.
pub(crate) const MAX_HINTED_ATTEMPTS: usize = 64;

/// Builds the hint that asks the daemon with a worker's stream to resend `attempts` and a pending drain, and to recall
/// `recalled`.
pub(crate) fn dispatch_requested(
    ids: &dyn IdGenerator,
    clock: &dyn Clock,
    worker: WorkerId,
    attempts: Vec<AttemptId>,
    recalled: Vec<AttemptId>,
) -> Envelope {
    let event = DomainEvent::WorkerDispatchRequested { attempts, recalled };
    hint(ids, clock, AggregateId::Worker(worker), Actor::Coordinator, event)
}

/// Builds an envelope that is only published on the bus.
pub(crate) fn hint(
    ids: &dyn IdGenerator,
    clock: &dyn Clock,
    aggregate: AggregateId,
    actor: Actor,
    event: DomainEvent,
) -> Envelope {
    let at = clock.now();
    Envelope::hint(EventId::from_uuid(ids.uuid(at)), at, aggregate, actor, event)
}
