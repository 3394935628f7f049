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

/// What an [`EventBus`] promises when nothing goes wrong. `make` gives a fresh one.
///
/// # Panics
/// When the bus does not keep a promise.
pub async fn bus<B: EventBus>(make: impl Fn() -> Arc<B>) {
    let maker = Maker::new(3);
    each_channel_reaches_its_subscribers(&maker, &*make()).await;
    events_keep_their_order(&maker, &*make()).await;
    a_slow_subscriber_stalls_nobody_and_is_told(&maker, &*make()).await;
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

async fn each_channel_reaches_its_subscribers(maker: &Maker, bus: &dyn EventBus) {
    let mut queue = bus.subscribe(&[JOB_QUEUE_CHANNEL]);
    let mut both = bus.subscribe(&[JOB_QUEUE_CHANNEL, WORKER_HEARTBEAT_CHANNEL]);
    let queued = event(maker, DomainEvent::JobQueued { priority: Priority::NORMAL });
    let beat = event(maker, DomainEvent::WorkerHeartbeat { renewals: 3 });
    let nobodys = event(maker, DomainEvent::JobCancelRequested);
    bus.publish(&[beat.clone(), nobodys, queued.clone()]).await.expect("a publication");
    let Delivery::Events(got) = next(&mut queue).await else { panic!("it lagged") };
    assert_eq!(*got, std::slice::from_ref(&queued)[..]);
    assert!(queue.try_next().is_none(), "nothing of another channel");
    let Delivery::Events(got) = next(&mut both).await else { panic!("it lagged") };
    assert_eq!(*got, [beat, queued]);
}

async fn events_keep_their_order(maker: &Maker, bus: &dyn EventBus) {
    let mut beats = bus.subscribe(&[WORKER_HEARTBEAT_CHANNEL]);
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

async fn a_slow_subscriber_stalls_nobody_and_is_told(maker: &Maker, bus: &dyn EventBus) {
    let mut slow = bus.subscribe(&[WORKER_HEARTBEAT_CHANNEL]);
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
    assert!(matches!(next(&mut slow).await, Delivery::Lagged));
    bus.publish(&beats[..1]).await.expect("a publication");
    assert!(matches!(next(&mut slow).await, Delivery::Events(_)), "it goes on after that");
}
