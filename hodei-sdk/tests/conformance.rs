//! Runs every conformance suite on every backend of this crate.
#![allow(clippy::unwrap_used, reason = "a test")]

#[cfg(feature = "nats")]
#[path = "support/nats.rs"]
mod nats;
#[cfg(feature = "postgres")]
#[path = "support/postgres.rs"]
mod postgres;

use std::path::Path;
#[cfg(feature = "nats")]
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[cfg(feature = "nats")]
use hodei_sdk::NatsEventBus;
use hodei_sdk::event::LogGap;
#[cfg(feature = "nats")]
use hodei_sdk::id::StoreId;
use hodei_sdk::id::{AttemptId, JobId};
use hodei_sdk::job::TenantId;
use hodei_sdk::port::{Clock, IdGenerator, LogBody, LogEnd, LogRecord, LogStore, LogStream};
use hodei_sdk::testing::{TestCloud, TestWorkerProvider, WorkerFault, conformance};
use hodei_sdk::time::Timestamp;
use hodei_sdk::{
    DataDir, DirectorySecrets, EncryptedSecrets, LocalOptions, LocalProvider, ManualClock, MemoryArtifacts,
    MemoryEventBus, MemoryLogStore, MemorySecrets, MemoryStore, ObjectArtifacts, SecretKeys, SeededIds,
    SegmentLogStore, SqliteStore, SystemClock, SystemIds,
};
#[cfg(feature = "postgres")]
use hodei_sdk::{PostgresEventBus, PostgresStore};
use uuid::Uuid;

#[tokio::test]
async fn memory_store() {
    conformance::store(async |id| Arc::new(MemoryStore::new(id))).await;
}

#[tokio::test]
async fn memory_log_store() {
    conformance::logs(async || Arc::new(MemoryLogStore::default())).await;
    conformance::logs(async || Arc::new(MemoryLogStore::paced(1 << 20))).await;
}

/// Data directories that exist until the end of a suite.
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
    // So small that nearly every record begins a new segment.
    conformance::logs(async || Arc::new(SegmentLogStore::open_with(dirs.next(), 64).await.unwrap())).await;
}

/// Locks a directory whose last holder has just been dropped.
async fn lock(dir: &Path) -> Arc<DataDir> {
    for _ in 0..200 {
        if let Ok(locked) = DataDir::lock(dir) {
            return Arc::new(locked);
        }
        SystemClock::default().sleep(Duration::from_millis(10)).await;
    }
    panic!("a dropped store keeps its directory");
}

#[tokio::test]
async fn a_data_directory_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    conformance::durable_store(async |id| Arc::new(SqliteStore::open(lock(path).await, id).await.unwrap()))
        .await;
    conformance::durable_logs(async || Arc::new(SegmentLogStore::open(lock(path).await).await.unwrap()))
        .await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let small = async || SegmentLogStore::open_with(lock(path).await, 1000).await;
    conformance::durable_logs(async || Arc::new(small().await.unwrap())).await;
}

fn attempt(number: u128) -> AttemptId {
    AttemptId { job: JobId::from_uuid(Uuid::from_u128(number)), number: 1 }
}

fn chunk(sequence: u64, bytes: Vec<u8>) -> LogRecord {
    let body = LogBody::Chunk { stream: LogStream::Stdout, bytes: bytes.into() };
    LogRecord { sequence, at: Timestamp::EPOCH, body }
}

#[tokio::test]
async fn a_restart_after_a_removal_keeps_the_other_logs() {
    let dir = tempfile::tempdir().unwrap();
    let logs = SegmentLogStore::open_with(lock(dir.path()).await, 500).await.unwrap();
    let (old, kept) = (attempt(1), attempt(2));
    // The first attempt fills a segment and continues in the next, where the second attempt begins.
    logs.append(old, &[chunk(0, vec![1; 600])]).await.unwrap();
    logs.append(old, &[chunk(1, vec![1; 10])]).await.unwrap();
    logs.seal(old, LogEnd::Complete).await.unwrap();
    logs.append(kept, &[chunk(0, vec![2; 10])]).await.unwrap();
    logs.remove(&[old]).await.unwrap();
    logs.remove(&[old]).await.unwrap();
    assert!(!dir.path().join("logs/00000001.log").exists(), "the first segment is removed");
    drop(logs);
    let logs = SegmentLogStore::open_with(lock(dir.path()).await, 500).await.unwrap();
    assert_eq!(logs.read(kept, 0, usize::MAX).await.unwrap(), [chunk(0, vec![2; 10])]);
    assert_eq!(logs.read(old, 0, usize::MAX).await.unwrap(), []);
}

#[tokio::test]
async fn damage_becomes_a_gap_and_spares_other_attempts() {
    let dir = tempfile::tempdir().unwrap();
    let logs = SegmentLogStore::open(lock(dir.path()).await).await.unwrap();
    let (one, other) = (attempt(1), attempt(2));
    for sequence in 0..3 {
        logs.append(one, &[chunk(sequence, vec![b'a'; 100])]).await.unwrap();
        logs.append(other, &[chunk(sequence, vec![b'b'; 100])]).await.unwrap();
    }
    drop(logs);
    let path = dir.path().join("logs/00000001.log");
    let mut bytes = std::fs::read(&path).unwrap();
    // Damages the second record of the first attempt, and appends an incomplete record.
    bytes[148 * 2 + 60] ^= 1;
    bytes.extend([7; 50]);
    std::fs::write(&path, &bytes).unwrap();
    let logs = SegmentLogStore::open(lock(dir.path()).await).await.unwrap();
    let gap = LogRecord {
        sequence: 1,
        at: Timestamp::EPOCH,
        body: LogBody::Gap(LogGap { from: 1, to: 2, bytes: 0 }),
    };
    let expected = [chunk(0, vec![b'a'; 100]), gap, chunk(2, vec![b'a'; 100])];
    assert_eq!(logs.read(one, 0, usize::MAX).await.unwrap(), expected);
    assert_eq!(logs.read(other, 0, usize::MAX).await.unwrap().len(), 3);
    logs.append(one, &[chunk(3, vec![b'c'; 100])]).await.unwrap();
    assert_eq!(logs.state(one).await.unwrap().next, 4);
}

#[tokio::test]
async fn every_store_under_faults() {
    let dirs = Dirs::default();
    conformance::store_under_faults(async |id| Arc::new(MemoryStore::new(id))).await;
    conformance::store_under_faults(async |id| Arc::new(SqliteStore::open(dirs.next(), id).await.unwrap()))
        .await;
    conformance::logs_under_faults(async || Arc::new(MemoryLogStore::default())).await;
    conformance::logs_under_faults(async || Arc::new(SegmentLogStore::open(dirs.next()).await.unwrap()))
        .await;
    conformance::bus_under_faults(async || Arc::new(MemoryEventBus::default())).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn postgres_store() {
    let Some(server) = postgres::server() else { return };
    let make = async |id| Arc::new(PostgresStore::connect_as(&server.database().await, id).await.unwrap());
    conformance::store(make).await;
    conformance::store_under_faults(make).await;
    let url = server.database().await;
    conformance::durable_store(async |id| Arc::new(PostgresStore::connect_as(&url, id).await.unwrap())).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn postgres_store_behind_a_pooler() {
    let Some(server) = postgres::server() else { return };
    let Some(bouncer) = postgres::Bouncer::start(server) else { return };
    let make = async |id| {
        let direct = server.database().await;
        let name = direct.rsplit('/').next().unwrap();
        Arc::new(PostgresStore::connect_as(&bouncer.url(name), id).await.unwrap())
    };
    conformance::store(make).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn postgres_log_store() {
    let Some(server) = postgres::server() else { return };
    let logs = async |url: &str| {
        Arc::new(PostgresStore::connect_as(url, Uuid::from_u128(1)).await.unwrap().log_store())
    };
    let make = async || logs(&server.database().await).await;
    conformance::logs(make).await;
    conformance::logs_under_faults(make).await;
    let url = server.database().await;
    conformance::durable_logs(async || logs(&url).await).await;
}

#[tokio::test]
async fn memory_event_bus() {
    conformance::bus(async || {
        let bus = MemoryEventBus::default();
        [Arc::new(bus.clone()), Arc::new(bus)]
    })
    .await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn postgres_event_bus() {
    let Some(server) = postgres::server() else { return };
    let end = async |url: &str| Arc::new(PostgresEventBus::connect(url).await.unwrap());
    conformance::bus(async || {
        let url = server.database().await;
        [end(&url).await, end(&url).await]
    })
    .await;
    conformance::bus_under_faults(async || end(&server.database().await).await).await;
}

#[cfg(feature = "nats")]
#[tokio::test(flavor = "multi_thread")]
async fn nats_event_bus() {
    let Some(nats) = nats::Nats::start() else { return };
    // Stores that share a server get no hints of each other.
    let stores = AtomicU64::new(1);
    let store = || StoreId::from_uuid(Uuid::from_u128(stores.fetch_add(1, Ordering::Relaxed).into()));
    let end = async |store| Arc::new(NatsEventBus::connect(&nats.url(), store).await.unwrap());
    conformance::bus(async || {
        let store = store();
        [end(store).await, end(store).await]
    })
    .await;
    conformance::bus_under_faults(async || end(store()).await).await;
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

#[tokio::test]
async fn artifact_stores() {
    conformance::artifact_store(async || Arc::new(MemoryArtifacts::new(64 << 20))).await;
    let dir = tempfile::tempdir().unwrap();
    let place = format!("dir:{}", dir.path().join("made/when-missing").display());
    conformance::artifact_store(async || Arc::new(ObjectArtifacts::open(&place).unwrap())).await;
    for place in ["dir:", "/tmp", "http://example.org/x", "file:///tmp"] {
        let refused = ObjectArtifacts::open(place).unwrap_err();
        assert!(refused.to_string().contains("write dir:PATH"), "{place}: {refused}");
    }
    // Opening a bucket makes no request.
    let bucket = ObjectArtifacts::open("s3://bucket/below");
    assert_eq!(bucket.is_ok(), cfg!(feature = "cloud"), "{bucket:?}");
}

#[tokio::test]
async fn secret_providers() {
    let clock = || Arc::new(SystemClock::default());
    conformance::secret_provider(async || Arc::new(MemorySecrets::new(clock()))).await;
    let dir = tempfile::tempdir().unwrap();
    let encrypted = async || {
        let keys = SecretKeys::new(dir.path().join("secrets.key"));
        let ids = Arc::new(SystemIds::default());
        let store = Arc::new(MemoryStore::new(ids.uuid(clock().now())));
        Arc::new(EncryptedSecrets::new(store, clock(), ids, keys))
    };
    conformance::secret_provider(encrypted).await;
    let files = tempfile::tempdir().unwrap();
    std::fs::create_dir(files.path().join("team")).unwrap();
    std::fs::write(files.path().join("team/db"), "hunter22").unwrap();
    std::fs::write(files.path().join("team/.hidden"), "hunter22").unwrap();
    let directory = DirectorySecrets::new(files.path());
    conformance::secrets_of_others(&directory, &TenantId::new("team"), "db", "hunter22").await;
}
