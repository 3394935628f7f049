//! Conformance suite for event sinks.

use std::sync::Arc;

use hodei_core::decision::AggregateId;
use hodei_core::event::{Actor, DomainEvent, Envelope};
use hodei_core::id::{EventId, JobId};
use hodei_core::job::Priority;
use hodei_core::port::{EventSink, FeedCursor, SinkPosition};
use hodei_core::time::Timestamp;
use uuid::Uuid;

/// Checks the contract of an event sink: its content, its position, and that it has no event twice. `fresh` returns two
/// handles of an empty sink; `read` returns its content.
///
/// # Panics
/// When the sink breaks the contract.
pub async fn event_sink(
    fresh: impl AsyncFn() -> [Arc<dyn EventSink>; 2],
    read: impl AsyncFn(&dyn EventSink) -> Vec<Envelope>,
) {
    let [sink, other] = fresh().await;
    let (beginning, later) = (FeedCursor::default(), FeedCursor::new("7.x"));
    let events: Vec<Envelope> = (1..=2_000).map(event).collect();
    assert_eq!(sink.position().await.expect("a position"), None, "it is empty");
    sink.append(&events[..3], &beginning).await.expect("it takes events");
    sink.append(&events[3..4], &later).await.expect("it takes events");
    assert_eq!(read(&*sink).await, events[..4], "in order");
    let fourth = SinkPosition { last: events[3].id, after: later.clone() };
    for sink in [&sink, &other] {
        assert_eq!(sink.position().await.expect("a position"), Some(fourth.clone()));
    }
    // Both handles continue from here without knowing of each other.
    sink.append(&events[4..6], &later).await.expect("it takes events");
    let _ = other.append(&events[4..8], &later).await;
    let has = read(&*sink).await;
    assert!(has == events[..6] || has == events[..8], "an event is repeated or out of order: {has:?}");
    let position = other.position().await.expect("a position").expect("it is not empty");
    assert_eq!(Some(position.last), has.last().map(|event| event.id));
    other.append(&events[has.len()..], &later).await.expect("an append after a read of the position");
    assert_eq!(read(&*sink).await, events, "a large append keeps the order");
}

fn event(number: u128) -> Envelope {
    let (id, at) = (EventId::from_uuid(Uuid::from_u128(number)), Timestamp::from_micros(5));
    let job = AggregateId::Job(JobId::from_uuid(Uuid::from_u128(number / 2)));
    let event = DomainEvent::JobQueued { priority: Priority::NORMAL };
    let (sequence, version) = (number as u64, 1 + (number % 2) as u64);
    Envelope { sequence, version, ..Envelope::hint(id, at, job, Actor::Client, event) }
}
