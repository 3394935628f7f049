//! Conformance suite for event buses.

use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::AggregateId;
use hodei_core::event::channel::{JOB_QUEUE_CHANNEL, WORKER_HEARTBEAT_CHANNEL};
use hodei_core::event::{Actor, DomainEvent, Envelope};
use hodei_core::id::{EventId, WorkerId};
use hodei_core::job::Priority;
use hodei_core::port::{ClockExt, Delivery, EventBus, Subscription};
use hodei_core::time::Timestamp;

use super::world::Maker;
use crate::clock::SystemClock;

/// Checks the contract of an [`EventBus`] without faults. `make` returns two ends of a fresh bus, which may be in
/// different processes: events that are published on one end reach subscribers of the other.
///
/// # Panics
/// When the bus breaks the contract.
pub async fn bus<B: EventBus>(make: impl AsyncFn() -> [Arc<B>; 2]) {
    let maker = Maker::new(3);
    for (from, to) in [(0, 1), (0, 0)] {
        let ends = make().await;
        each_channel_reaches_its_subscribers(&maker, &*ends[from], &*ends[to]).await;
        let ends = make().await;
        events_keep_their_order(&maker, &*ends[from], &*ends[to]).await;
        let ends = make().await;
        a_slow_subscriber_is_told_that_it_lagged_and_delays_no_publisher(&maker, &*ends[from], &*ends[to])
            .await;
    }
}

fn event(maker: &Maker, event: DomainEvent) -> Envelope {
    let id = EventId::from_uuid(maker.uuid());
    Envelope {
        id,
        sequence: 0,
        aggregate: AggregateId::Worker(WorkerId::from_uuid(maker.uuid())),
        version: 1,
        correlation: id,
        causation: None,
        actor: Actor::Platform,
        at: Timestamp::EPOCH,
        schema: 1,
        event,
    }
}

async fn next(subscription: &mut Box<dyn Subscription>) -> Delivery {
    SystemClock::default().timeout(Duration::from_secs(10), subscription.next()).await.expect("a delivery")
}

async fn each_channel_reaches_its_subscribers(maker: &Maker, bus: &dyn EventBus, heard: &dyn EventBus) {
    let mut queue = heard.subscribe(&[JOB_QUEUE_CHANNEL]);
    let mut both = heard.subscribe(&[JOB_QUEUE_CHANNEL, WORKER_HEARTBEAT_CHANNEL]);
    let queued = event(maker, DomainEvent::JobQueued { priority: Priority::NORMAL });
    let beat = event(maker, DomainEvent::WorkerHeartbeat { renewals: 3 });
    let without_channel = event(maker, DomainEvent::JobCancelRequested);
    bus.publish(&[beat.clone(), without_channel, queued.clone()]).await.expect("a publication");
    let Delivery::Events(got) = next(&mut queue).await else { panic!("it lagged") };
    assert_eq!(*got, std::slice::from_ref(&queued)[..]);
    assert!(queue.try_next().is_none(), "an event of another channel arrived");
    let Delivery::Events(got) = next(&mut both).await else { panic!("it lagged") };
    assert_eq!(*got, [beat, queued]);
}

async fn events_keep_their_order(maker: &Maker, bus: &dyn EventBus, heard: &dyn EventBus) {
    let mut beats = heard.subscribe(&[WORKER_HEARTBEAT_CHANNEL]);
    for renewals in 0..100 {
        bus.publish(&[event(maker, DomainEvent::WorkerHeartbeat { renewals })]).await.expect("a publication");
    }
    let mut expected = 0;
    while expected < 100 {
        let Delivery::Events(got) = next(&mut beats).await else { panic!("it lagged") };
        for envelope in got.iter() {
            assert_eq!(envelope.event, DomainEvent::WorkerHeartbeat { renewals: expected });
            expected += 1;
        }
    }
}

async fn a_slow_subscriber_is_told_that_it_lagged_and_delays_no_publisher(
    maker: &Maker,
    bus: &dyn EventBus,
    heard: &dyn EventBus,
) {
    let mut slow = heard.subscribe(&[WORKER_HEARTBEAT_CHANNEL]);
    let beats: Vec<_> =
        (0..1000).map(|renewals| event(maker, DomainEvent::WorkerHeartbeat { renewals })).collect();
    for _ in 0..100 {
        let publish = bus.publish(&beats);
        SystemClock::default()
            .timeout(Duration::from_secs(10), publish)
            .await
            .expect("no stall")
            .expect("a publication");
    }
    while let Delivery::Events(_) = next(&mut slow).await {}
    // Earlier events may still arrive; the new one must.
    let last = event(maker, DomainEvent::WorkerHeartbeat { renewals: 5000 });
    bus.publish(std::slice::from_ref(&last)).await.expect("a publication");
    loop {
        if let Delivery::Events(got) = next(&mut slow).await
            && got.contains(&last)
        {
            return;
        }
    }
}
