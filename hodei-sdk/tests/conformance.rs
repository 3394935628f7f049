//! Every suite on every backend of this crate.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hodei_sdk::testing::{TestCloud, TestWorkerProvider, WorkerFault, conformance};
use hodei_sdk::{
    DataDir, LocalOptions, LocalProvider, ManualClock, MemoryEventBus, MemoryLogStore, MemoryStore,
    SeededIds, SegmentLogStore, SqliteStore, SystemClock, SystemIds,
};

#[tokio::test]
async fn memory_store() {
    conformance::store(async |id| Arc::new(MemoryStore::new(id))).await;
}

#[tokio::test]
async fn memory_log_store() {
    conformance::logs(async || Arc::new(MemoryLogStore::default())).await;
    conformance::logs(async || Arc::new(MemoryLogStore::paced(1 << 20))).await;
}

/// Directories that are there until the end of a suite.
#[derive(Default)]
struct Dirs(Mutex<Vec<tempfile::TempDir>>);

impl Dirs {
    fn next(&self) -> Arc<DataDir> {
        let dir = tempfile::tempdir().unwrap();
        let locked = DataDir::lock(dir.path()).unwrap();
        self.0.lock().unwrap().push(dir);
        Arc::new(locked)
    }
}

#[tokio::test]
async fn sqlite_store() {
    let dirs = Dirs::default();
    conformance::store(async |id| Arc::new(SqliteStore::open(dirs.next(), id).await.unwrap())).await;
}

#[tokio::test]
async fn segment_log_store() {
    let dirs = Dirs::default();
    conformance::logs(async || Arc::new(SegmentLogStore::open(dirs.next()).await.unwrap())).await;
    // So small that nearly every record begins a new one.
    conformance::logs(async || Arc::new(SegmentLogStore::open_with(dirs.next(), 64).await.unwrap())).await;
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
