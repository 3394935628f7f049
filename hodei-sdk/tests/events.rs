//! Every event is produced, every channel has a sender and a reader, and docs/events.md is up to date.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::event::{catalogue, channel};
use hodei_sdk::port::{ClockExt, Delivery, EventBus};
use hodei_sdk::testing::simulation;
use hodei_sdk::{
    Hodei, JobSpec, LocalOptions, LocalProvider, MemoryEventBus, MemoryLogStore, MemoryStore, Settings,
    SystemClock,
};
use uuid::Uuid;

#[test]
fn every_stored_event_is_produced() {
    let mut kinds: BTreeSet<&str> = BTreeSet::new();
    for seed in 0..100 {
        kinds.extend(simulation::run(seed).unwrap().kinds);
    }
    // Produced by other tests: tests/platform.rs, tests/grpc.rs, tests/access.rs and the suite of stores.
    kinds.extend(["LogGapRecorded", "ProviderUpdated", "WorkerTokenIssued", "WorkerAdmitted"]);
    kinds.extend(["SecretStored", "SecretDeleted", "TokenCreated", "TokenRevoked", "AccessRefused"]);
    let missing: Vec<_> = catalogue().iter().filter(|row| row.stored && !kinds.contains(row.name)).collect();
    assert!(missing.is_empty(), "not produced by the simulation: {missing:?}");
}

#[tokio::test]
async fn every_channel_carries_events_and_has_a_reader() {
    let bus = Arc::new(MemoryEventBus::default());
    let mut settings = Settings::quick();
    // No sweeps: if a channel had no reader, the job would never end.
    (settings.sweep, settings.heartbeat) = (None, Duration::from_millis(20));
    let mut subscriptions = channel::ALL.map(|channel| bus.subscribe(&[channel]));
    // Two platforms: the first coordinates, and the second has the worker.
    let (store, logs) = (MemoryStore::new(Uuid::from_u128(1)).shared(), MemoryLogStore::default());
    let platform = |name: &'static str| {
        let builder = Hodei::builder().store(Arc::new(store.clone())).log_store(Arc::new(logs.clone()));
        let options = LocalOptions { name: name.to_owned(), ..LocalOptions::default() };
        let builder = builder.event_bus(bus.clone()).settings(settings.clone());
        builder.provider(move |context| LocalProvider::new(context, options)).start()
    };
    let (one, two) = (platform("one").await.unwrap(), platform("two").await.unwrap());
    let spec = JobSpec::shell("echo x; sleep 0.1").constraint("provider EQ two".parse().unwrap());
    one.submit(spec.build().unwrap()).await.unwrap().wait().await.unwrap();
    for (name, subscription) in channel::ALL.into_iter().zip(&mut subscriptions) {
        let carried = SystemClock::default().timeout(Duration::from_secs(5), subscription.next()).await;
        assert!(matches!(carried, Ok(Delivery::Events(_))), "{name} carries nothing");
    }
    one.shutdown().await;
    two.shutdown().await;
}

#[test]
fn the_page_about_events_matches_the_catalogue() {
    let mut page = String::from(
        "# Events\n\nGenerated from `hodei_core::event::catalogue`; `HODEI_BLESS=1 cargo test -p hodei-sdk --test events` updates it.\n\n\
         An event is either stored in one transaction with the state that it describes, or only sent over the bus.\n\n\
         | event | meaning | producer | consumer | kept |\n| --- | --- | --- | --- | --- |\n",
    );
    for row in catalogue() {
        let kept = if row.stored { "stored" } else { "bus only" };
        writeln!(page, "| {} | {} | {} | {} | {kept} |", row.name, row.meaning, row.producer, row.consumer)
            .unwrap();
    }
    page.push_str("\n## Channels\n\nA message is a hint: it says where to look, and may be lost.\n\n");
    for name in channel::ALL {
        writeln!(page, "- `{name}`").unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/events.md");
    if std::env::var_os("HODEI_BLESS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap_or_default(),
        page,
        "docs/events.md differs from the catalogue: run this test with HODEI_BLESS=1"
    );
}
