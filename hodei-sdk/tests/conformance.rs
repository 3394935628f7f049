//! Every suite on every backend of this crate.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use hodei_sdk::testing::{TestCloud, TestWorkerProvider, WorkerFault, conformance};
use hodei_sdk::{
    LocalOptions, LocalProvider, ManualClock, MemoryEventBus, MemoryLogStore, MemoryStore, SeededIds,
    SystemClock, SystemIds,
};

#[tokio::test]
async fn memory_store() {
    conformance::store(|id| Arc::new(MemoryStore::new(id))).await;
}

#[tokio::test]
async fn memory_log_store() {
    conformance::logs(|| Arc::new(MemoryLogStore::default())).await;
    conformance::logs(|| Arc::new(MemoryLogStore::paced(1 << 20))).await;
}

#[tokio::test]
async fn memory_event_bus() {
    conformance::bus(|| Arc::new(MemoryEventBus::default())).await;
}

#[tokio::test]
async fn local_provider() {
    conformance::provider(|context| LocalProvider::new(context, LocalOptions::default())).await;
}

#[tokio::test]
async fn test_worker_provider() {
    conformance::provider(|context| {
        let cloud = TestCloud::new(context.clock(), context.ids(), |_| WorkerFault::None);
        TestWorkerProvider::new(&context, &cloud)
    })
    .await;
}

#[tokio::test]
async fn clocks() {
    conformance::clock(&SystemClock::default(), |_| {}).await;
    let manual = ManualClock::default();
    let hand = manual.clone();
    conformance::clock(&manual, move |by: Duration| hand.advance(by)).await;
}

#[test]
fn id_generators() {
    conformance::ids(&SystemIds::default());
    conformance::ids(&SeededIds::new(1));
}
