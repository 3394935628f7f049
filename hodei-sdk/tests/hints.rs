//! What carries hints between daemons: all is found by it alone, and nothing is lost with it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod nats;
mod postgres;

use std::sync::Arc;
use std::time::Duration;

use hodei_sdk::decision::AggregateId;
use hodei_sdk::event::channel::JOB_QUEUE_CHANNEL;
use hodei_sdk::event::{Actor, DomainEvent, Envelope};
use hodei_sdk::id::{EventId, JobId, StoreId};
use hodei_sdk::job::{Labels, Priority};
use hodei_sdk::port::{Clock, ClockExt, Delivery, EventBus, Subscription};
use hodei_sdk::time::Timestamp;
use hodei_sdk::{
    Error, Hodei, JobSpec, JobStatus, LocalOptions, LocalProvider, NatsEventBus, OpenError, Settings,
    SystemClock,
};
use nats::Nats;
use uuid::Uuid;

/// A platform whose workers have a label of its own.
async fn platform(store: &str, hints: &str, name: &'static str, settings: Settings) -> Hodei {
    let labels = Labels::from([("where".to_owned(), name.to_owned())]);
    let options = LocalOptions { name: name.to_owned(), labels, ..LocalOptions::default() };
    let builder = Hodei::builder().url(store).hints(hints).settings(settings);
    builder.provider(move |context| LocalProvider::new(context, options)).start().await.unwrap()
}

/// Jobs that each platform submits for the workers of both.
async fn all_succeed(platforms: [&Hodei; 2], each: usize, script: &str) {
    let mut jobs = Vec::new();
    for hodei in platforms {
        for place in ["one", "two"] {
            let spec = || {
                let spec = JobSpec::shell(script).constraint(format!("where EQ {place}").parse().unwrap());
                spec.build().unwrap()
            };
            jobs.extend(hodei.submit_batch((0..each).map(|_| spec()).collect()).await.unwrap());
        }
    }
    for job in jobs {
        let job = job.unwrap();
        let ended = SystemClock::default().timeout(Duration::from_secs(60), job.wait()).await;
        let ended = ended.expect("it ends").unwrap();
        assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
    }
}

async fn finish_without_sweeps(store: &str, hints: &str) {
    let settings = || {
        let mut settings = Settings::quick();
        // No lease runs out while two platforms share a busy machine.
        (settings.sweep, settings.daemon_lease) = (None, Duration::from_secs(10));
        settings
    };
    let one = platform(store, hints, "one", settings()).await;
    let two = platform(store, hints, "two", settings()).await;
    all_succeed([&one, &two], 250, "true").await;
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sweeps_a_thousand_jobs_finish_by_notify() {
    let Some(server) = postgres::server() else { return };
    let store = server.database().await;
    finish_without_sweeps(&store, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sweeps_a_thousand_jobs_finish_by_nats() {
    let (Some(server), Some(nats)) = (postgres::server(), Nats::start()) else { return };
    finish_without_sweeps(&server.database().await, &nats.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_that_comes_and_goes_changes_no_job() {
    let (Some(server), Some(mut nats)) = (postgres::server(), Nats::absent()) else { return };
    let store = server.database().await;
    let settings = || {
        let mut settings = Settings::quick();
        settings.daemon_lease = Duration::from_secs(5);
        settings
    };
    let one = platform(&store, &nats.url(), "one", settings()).await;
    let two = platform(&store, &nats.url(), "two", settings()).await;
    all_succeed([&one, &two], 5, "true").await;
    nats.up();
    let (clock, both) = (SystemClock::default(), [&one, &two]);
    let comes_and_goes = async {
        for _ in 0..3 {
            clock.sleep(Duration::from_millis(400)).await;
            nats.down();
            clock.sleep(Duration::from_millis(400)).await;
            nats.up();
        }
    };
    tokio::join!(comes_and_goes, all_succeed(both, 40, "sleep 0.05"));
    one.shutdown().await;
    two.shutdown().await;
}

fn queued(number: u128) -> Envelope {
    let id = EventId::from_uuid(Uuid::from_u128(number));
    let job = AggregateId::Job(JobId::from_uuid(id.as_uuid()));
    let event = DomainEvent::JobQueued { priority: Priority::NORMAL };
    Envelope::hint(id, Timestamp::EPOCH, job, Actor::Client, event)
}

/// Says something on one end until it is heard on the other; whether something was told as lost before.
async fn heard(from: &NatsEventBus, subscription: &mut Box<dyn Subscription>, number: u128) -> bool {
    let (clock, mut lost) = (SystemClock::default(), false);
    let until = clock.monotonic() + Duration::from_secs(20);
    while clock.monotonic() < until {
        from.publish(&[queued(number)]).await.unwrap();
        while let Ok(delivery) = clock.timeout(Duration::from_millis(50), subscription.next()).await {
            match delivery {
                Delivery::Lagged => lost = true,
                Delivery::Events(events) if events.contains(&queued(number)) => return lost,
                Delivery::Events(_) => {}
            }
        }
    }
    panic!("nothing was heard within 20 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nats_lost_is_told() {
    let Some(mut nats) = Nats::absent() else { return };
    let store = StoreId::from_uuid(Uuid::from_u128(1));
    let one = NatsEventBus::connect(&nats.url(), store).await.unwrap();
    let two = Arc::new(NatsEventBus::connect(&nats.url(), store).await.unwrap());
    let mut hears = two.subscribe(&[JOB_QUEUE_CHANNEL]);
    nats.up();
    assert!(heard(&one, &mut hears, 1).await, "nobody was there at first");
    nats.down();
    one.publish(&[queued(2)]).await.unwrap();
    nats.up();
    assert!(heard(&one, &mut hears, 3).await, "nobody was there for a while");
}

#[tokio::test]
async fn what_carries_no_hints_is_told() {
    let Some(server) = postgres::server() else { return };
    let store = server.database().await;
    for url in ["mqtt://localhost", "nats://", "nats://a b", "nats://me:secret@host:port", "nats", ""] {
        let started = Hodei::builder().url(&store).hints(url).start().await;
        let Err(Error::Open(error @ OpenError::Hints { .. })) = started else { panic!("{url}: {started:?}") };
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
