//! Forwarding of events to a sink: no event is missing or repeated, and no job waits for it.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/nats.rs"]
mod nats;
#[path = "support/postgres.rs"]
mod postgres;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use hodei_sdk::event::Envelope;
use hodei_sdk::id::StoreId;
use hodei_sdk::port::{AuditRepository, Clock, ClockExt, EventSink, FeedCursor, Store};
use hodei_sdk::testing::conformance;
use hodei_sdk::{
    Hodei, JobSpec, JobStatus, LocalOptions, LocalProvider, MemoryEventSink, MemoryStore, NatsEventStream,
    PostgresStore, Settings, SystemClock,
};
use nats::Nats;
use uuid::Uuid;

fn id(number: u128) -> StoreId {
    StoreId::from_uuid(Uuid::from_u128(number))
}

/// A reader of the streams of a NATS server.
struct Reader(jetstream::Context);

impl Reader {
    async fn new(nats: &Nats) -> Self {
        Self(jetstream::new(async_nats::connect(nats.url()).await.unwrap()))
    }

    /// Returns all events in the stream of a store; none if there is no stream.
    async fn events(&self, store: StoreId) -> Vec<Envelope> {
        let Ok(mut stream) = self.0.get_stream(format!("hodei-{store}")).await else { return Vec::new() };
        let state = stream.info().await.unwrap().state.clone();
        let mut events = Vec::new();
        for number in state.first_sequence..=state.last_sequence {
            if state.messages == 0 {
                break;
            }
            let message = stream.get_raw_message(number).await.unwrap();
            let event: Envelope = serde_json::from_slice(&message.payload).unwrap();
            assert_eq!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), event.id.to_string());
            let subject = message.subject.as_str();
            assert!(subject.starts_with(&format!("hodei.{store}.events.")), "{subject}");
            assert!(subject.ends_with(event.event.name()), "{subject}");
            events.push(event);
        }
        events
    }

    /// Waits until the stream of a store has all events of its feed, and returns them.
    async fn all(&self, store: &dyn Store) -> Vec<Envelope> {
        let clock = SystemClock::default();
        let until = clock.monotonic() + Duration::from_secs(30);
        loop {
            let all = store.feed(&FeedCursor::default(), usize::MAX >> 1).await.unwrap().events;
            let events = self.events(store.id()).await;
            if events == all {
                return events;
            }
            assert!(clock.monotonic() < until, "{} of {} events", events.len(), all.len());
            clock.sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn memory_event_sink() {
    let kept = MemoryEventSink::new(10_000);
    let (own, handle) = (kept.clone(), kept.clone());
    let fresh = async move || [Arc::new(own.clone()) as Arc<dyn EventSink>, Arc::new(own.clone())];
    conformance::event_sink(fresh, async |_| handle.events()).await;
    let last = kept.events().pop();
    let few = MemoryEventSink::new(1);
    few.append(&kept.events(), &FeedCursor::default()).await.unwrap();
    assert_eq!(few.events().pop(), last);
    assert_eq!(few.events().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_event_stream() {
    let Some(nats) = Nats::with_streams() else { return };
    let reader = Reader::new(&nats).await;
    let handle = || Arc::new(NatsEventStream::new(&nats.url(), id(1)).unwrap()) as Arc<dyn EventSink>;
    conformance::event_sink(async || [handle(), handle()], async |_| reader.events(id(1)).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_event_is_shortened_and_delays_no_other() {
    let Some(nats) = Nats::with_streams() else { return };
    let store = Arc::new(MemoryStore::new(Uuid::from_u128(3)));
    let hodei = platform(&store, &nats).await;
    // As JSON it has twice as many bytes.
    let long = JobSpec::command(["true"]).label("long", "\"".repeat(700_000)).build().unwrap();
    assert_eq!(hodei.submit(long).await.unwrap().wait().await.unwrap().status(), JobStatus::Succeeded);
    run(&hodei, 3).await;
    let all = store.feed(&FeedCursor::default(), 1_000).await.unwrap().events;
    let clock = SystemClock::default();
    let stream = async {
        loop {
            let stream = Reader::new(&nats).await.0.get_stream(format!("hodei-{}", store.id())).await;
            if let Ok(stream) = stream
                && stream.cached_info().state.messages >= all.len() as u64
            {
                break stream;
            }
            clock.sleep(Duration::from_millis(50)).await;
        }
    };
    let stream = clock.timeout(Duration::from_secs(20), stream).await.expect("all events arrive");
    let (mut cut, mut number) = (0, 0);
    for event in &all {
        number += 1;
        let message = stream.get_raw_message(number).await.unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(shown["id"], event.id.to_string());
        if let Some(bytes) = message.headers.get("Hodei-Cut") {
            assert!(bytes.as_str().parse::<usize>().unwrap() > 1 << 20);
            assert_eq!(shown["event"], "JobCreated");
            cut += 1;
        }
    }
    assert_eq!(cut, 1);
    hodei.shutdown().await;
}

/// Starts a platform over a store in memory.
async fn platform(store: &Arc<MemoryStore>, nats: &Nats) -> Hodei {
    let builder = Hodei::builder().store(store.clone()).settings(Settings::quick());
    builder.events(nats.url()).start().await.unwrap()
}

async fn run(hodei: &Hodei, count: usize) {
    let specs = (0..count).map(|_| JobSpec::command(["true"]).build().unwrap()).collect();
    for job in hodei.submit_batch(specs).await.unwrap() {
        assert_eq!(job.unwrap().wait().await.unwrap().status(), JobStatus::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_every_event_although_nats_restarts_and_loses_its_data() {
    let Some(mut nats) = Nats::with_streams() else { return };
    let store = Arc::new(MemoryStore::new(Uuid::from_u128(2)));
    let hodei = platform(&store, &nats).await;
    run(&hodei, 20).await;
    let before = Reader::new(&nats).await.all(&*store).await;
    // NATS is down while jobs run, then starts and stops repeatedly.
    nats.down();
    run(&hodei, 20).await;
    for _ in 0..2 {
        nats.up();
        run(&hodei, 30).await;
        nats.down();
    }
    nats.up();
    let reader = Reader::new(&nats).await;
    let after = reader.all(&*store).await;
    assert!(after.len() > before.len() && after.starts_with(&before));
    // A deleted stream is created again, with all events of the store.
    reader.0.delete_stream(format!("hodei-{}", store.id())).await.unwrap();
    run(&hodei, 5).await;
    assert!(reader.all(&*store).await.starts_with(&after));
    // The next start continues at the place of the last one.
    hodei.shutdown().await;
    let again = platform(&store, &nats).await;
    run(&again, 5).await;
    reader.all(&*store).await;
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_platform_of_a_store_forwards_events_and_another_takes_over() {
    let (Some(server), Some(nats)) = (postgres::server(), Nats::with_streams()) else { return };
    let (url, reader) = (server.database().await, Reader::new(&nats).await);
    let store = PostgresStore::connect(&url).await.unwrap();
    let platform = async |name: &str| {
        let options = LocalOptions { name: name.to_owned(), ..LocalOptions::default() };
        let builder = Hodei::builder().url(&url).events(nats.url()).settings(Settings::quick());
        builder.provider(move |context| LocalProvider::new(context, options)).start().await.unwrap()
    };
    let (one, two) = (platform("one").await, platform("two").await);
    run(&one, 20).await;
    reader.all(&store).await;
    one.shutdown().await;
    run(&two, 20).await;
    let three = platform("three").await;
    run(&three, 20).await;
    two.shutdown().await;
    run(&three, 5).await;
    three.shutdown().await;
    let four = platform("four").await;
    let events = reader.all(&store).await;
    assert_eq!(events.iter().map(|event| event.id).collect::<BTreeSet<_>>().len(), events.len());
    four.shutdown().await;
}

#[tokio::test]
async fn an_unsupported_events_url_is_refused() {
    for url in ["mqtt://localhost", "nats://", "me:secret@host"] {
        let started = Hodei::builder().events(url).start().await;
        let error = started.expect_err(url).to_string();
        assert!(error.contains("is not a valid address for events") && !error.contains("secret"), "{error}");
    }
}
