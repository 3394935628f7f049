//! Hints: events that travel on the bus alone. A lost one costs time, since sweeps find the same in the store.

use hodei_core::decision::AggregateId;
use hodei_core::event::{Actor, DomainEvent, Envelope};
use hodei_core::id::{AttemptId, EventId, WorkerId};
use hodei_core::port::{Clock, IdGenerator};

/// Attempts that one hint tells of: the message of a database takes little.
pub(crate) const MAX_HINTED_ATTEMPTS: usize = 64;

/// Asks the daemon that holds the stream of a worker to look at what it should have.
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

/// An envelope that only travels on the bus.
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
