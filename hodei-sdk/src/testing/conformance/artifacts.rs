//! Conformance suite for artifact stores.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use hodei_core::artifact::ArtifactKey;
use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::TenantId;
use hodei_core::port::{ArtifactContent, ArtifactError, ArtifactStore};

use super::world::Maker;

/// Checks the contract of an [`ArtifactStore`]. `make` returns a fresh, empty one with room for 64 MiB.
///
/// # Panics
/// When it breaks the contract.
pub async fn artifact_store<P: ArtifactStore>(make: impl AsyncFn() -> Arc<P>) {
    let (store, maker) = (make().await, Maker::new(9));
    let job = || JobId::from_uuid(maker.uuid());
    let (first, second) = (job(), job());
    content_round_trips(&*store, first).await;
    an_artifact_is_stored_entirely_or_not_at_all(&*store, &key("one", second, 1, "broken")).await;
    any_name_is_accepted(&*store, second).await;
    tenants_attempts_and_names_are_separate(&*store, first).await;
    jobs_are_forgotten(&*store, first, second).await;
}

fn key(tenant: &str, job: JobId, number: u32, name: &str) -> ArtifactKey {
    let name = name.parse().expect("a path");
    ArtifactKey { tenant: TenantId::new(tenant), attempt: AttemptId { job, number }, name }
}

/// Returns content in pieces of this length; the last one may be shorter.
fn content(bytes: &[u8], piece: usize) -> ArtifactContent {
    let pieces: Vec<_> = bytes.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces).boxed()
}

fn broken(before: &[u8]) -> ArtifactContent {
    let error = ArtifactError::Refused("the content ended early".into());
    content(before, 1 << 20).chain(stream::iter([Err(error)])).boxed()
}

async fn read(store: &dyn ArtifactStore, key: &ArtifactKey) -> Option<Vec<u8>> {
    let content = store.get(key).await.expect("a read")?;
    let pieces: Vec<Bytes> = content.try_collect().await.expect("the content");
    assert!(pieces.iter().all(|piece| piece.len() <= 1 << 20), "a piece is longer than 1 MiB");
    Some(pieces.concat())
}

async fn put(store: &dyn ArtifactStore, key: &ArtifactKey, bytes: &[u8]) {
    store.put(key, content(bytes, 100_000)).await.expect("a put");
}

async fn content_round_trips(store: &dyn ArtifactStore, job: JobId) {
    // Sizes near the limit at which a store may begin another part.
    for (number, length) in [0, 1, 100_000, (8 << 20) - 1, 8 << 20, (20 << 20) + 7].into_iter().enumerate() {
        let key = key("one", job, 1, &format!("{number}"));
        assert_eq!(read(store, &key).await, None, "there is no artifact before the first put");
        let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        put(store, &key, &bytes).await;
        assert!(read(store, &key).await == Some(bytes), "{length} bytes come back as they are");
    }
    put(store, &key("one", job, 1, "0"), b"in its place").await;
    assert_eq!(read(store, &key("one", job, 1, "0")).await, Some(b"in its place".to_vec()));
    store.put(&key("one", job, 1, "0"), content(b"x", 1)).await.expect("a shorter one in its place");
    assert_eq!(read(store, &key("one", job, 1, "0")).await, Some(b"x".to_vec()));
}

async fn an_artifact_is_stored_entirely_or_not_at_all(store: &dyn ArtifactStore, key: &ArtifactKey) {
    let expected = Err(ArtifactError::Refused("the content ended early".into()));
    for length in [0, 10, 9 << 20] {
        assert_eq!(store.put(key, broken(&vec![7; length])).await, expected, "the error of the content");
        assert_eq!(
            read(store, key).await,
            None,
            "an upload that failed after {length} bytes leaves no artifact"
        );
    }
    put(store, key, b"whole").await;
    assert_eq!(store.put(key, broken(&[8; 10])).await, expected);
    assert_eq!(read(store, key).await, Some(b"whole".to_vec()), "the stored artifact stays");
}

async fn any_name_is_accepted(store: &dyn ArtifactStore, job: JobId) {
    let long = ["\u{e4}"; 120].concat();
    let deep = ["x"; 500].join("/");
    let names = ["a", "a/b", "A", "%2e%2e", "a b", "*?[", "..a", "a\\b", &long, &deep, &["y"; 255].concat()];
    for name in names {
        put(store, &key("one", job, 1, name), name.as_bytes()).await;
    }
    for name in names {
        assert_eq!(read(store, &key("one", job, 1, name)).await, Some(name.as_bytes().to_vec()), "{name}");
    }
}

async fn tenants_attempts_and_names_are_separate(store: &dyn ArtifactStore, job: JobId) {
    let places = [("two", 1, "a"), ("two", 2, "a"), ("three", 1, "a"), ("..", 1, "a"), ("two", 12, "a")];
    for (tenant, number, name) in places {
        put(store, &key(tenant, job, number, name), format!("{tenant} {number}").as_bytes()).await;
    }
    for (tenant, number, name) in places {
        let kept = read(store, &key(tenant, job, number, name)).await;
        assert_eq!(kept, Some(format!("{tenant} {number}").into_bytes()));
    }
    assert_eq!(read(store, &key("four", job, 1, "a")).await, None, "a tenant has its own");
}

async fn jobs_are_forgotten(store: &dyn ArtifactStore, first: JobId, second: JobId) {
    let remove = |tenant: &'static str, jobs: Vec<JobId>| async move {
        store.remove(&TenantId::new(tenant), &jobs).await.expect("a removal");
    };
    remove("two", vec![first]).await;
    assert_eq!(read(store, &key("two", first, 1, "a")).await, None);
    assert_eq!(read(store, &key("two", first, 12, "a")).await, None, "with every attempt");
    assert!(read(store, &key("three", first, 1, "a")).await.is_some(), "another tenant keeps its own");
    assert!(read(store, &key("one", second, 1, "a/b")).await.is_some(), "another job keeps its own");
    remove("two", vec![first]).await;
    remove("one", vec![first, second]).await;
    assert_eq!(read(store, &key("one", second, 1, "a/b")).await, None);
    put(store, &key("two", first, 1, "a"), b"again").await;
    assert_eq!(read(store, &key("two", first, 1, "a")).await, Some(b"again".to_vec()));
}
