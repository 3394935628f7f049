//! Conformance suite for log stores.

use std::sync::Arc;

use hodei_core::event::LogGap;
use hodei_core::id::{AttemptId, JobId};
use hodei_core::port::{LogBody, LogEnd, LogError, LogRecord, LogState, LogStore, LogStream};
use hodei_core::time::Timestamp;

use super::model::walk_logs;
use super::world::Maker;

/// Checks the contract of a [`LogStore`]. `make` returns a fresh, empty one.
///
/// # Panics
/// When the store breaks the contract.
pub async fn logs<L: LogStore>(make: impl AsyncFn() -> Arc<L>) {
    let maker = Maker::new(2);
    let attempt = || AttemptId { job: JobId::from_uuid(maker.uuid()), number: 1 };
    records_are_read_in_order(&*make().await, attempt()).await;
    stored_records_are_skipped(&*make().await, attempt()).await;
    a_hole_is_refused(&*make().await, attempt()).await;
    an_ended_log_rejects_new_records(&*make().await, attempt()).await;
    attempts_have_separate_logs(&*make().await, attempt(), attempt()).await;
    large_records_and_any_bytes_are_kept(&*make().await, attempt()).await;
    removed_logs_are_gone(&*make().await, attempt(), attempt()).await;
    for seed in 0..4 {
        walk_logs(&maker, &*make().await, seed).await;
    }
}

async fn removed_logs_are_gone(store: &dyn LogStore, one: AttemptId, other: AttemptId) {
    for attempt in [one, other] {
        store.append(attempt, &[chunk(0, "a"), chunk(1, "b")]).await.expect("an append");
        store.seal(attempt, LogEnd::Complete).await.expect("an end");
    }
    store.remove(&[one]).await.expect("an end");
    store.remove(&[one]).await.expect("a second removal");
    assert_eq!(store.read(one, 0, usize::MAX).await.expect("a read"), []);
    assert_eq!(store.state(one).await.expect("a state"), LogState { next: 0, bytes: 0, end: None });
    assert_eq!(store.read(other, 1, usize::MAX).await.expect("a read"), [chunk(1, "b")]);
}

fn chunk(sequence: u64, text: impl Into<bytes::Bytes>) -> LogRecord {
    let stream = if sequence.is_multiple_of(2) { LogStream::Stdout } else { LogStream::Stderr };
    let at = Timestamp::from_micros(sequence as i64);
    LogRecord { sequence, at, body: LogBody::Chunk { stream, bytes: text.into() } }
}

async fn records_are_read_in_order(store: &dyn LogStore, attempt: AttemptId) {
    assert_eq!(store.state(attempt).await.expect("a state"), LogState { next: 0, bytes: 0, end: None });
    let records: Vec<_> = (0..9).map(|n| chunk(n, format!("line {n}"))).collect();
    for pair in records.chunks(2) {
        assert_eq!(store.append(attempt, pair).await.expect("an append"), pair[pair.len() - 1].next());
    }
    assert_eq!(store.read(attempt, 0, usize::MAX).await.expect("a read"), records);
    assert_eq!(store.read(attempt, 4, usize::MAX).await.expect("a read"), records[4..]);
    assert_eq!(store.read(attempt, 9, usize::MAX).await.expect("a read"), []);
    let mut paged = Vec::new();
    while paged.len() < records.len() {
        let page = store.read(attempt, paged.len() as u64, 1).await.expect("a read");
        assert!(!page.is_empty(), "a read gives at least one record when there is one");
        paged.extend(page);
    }
    assert_eq!(paged, records);
    assert_eq!(store.state(attempt).await.expect("a state").bytes, 54);
}

async fn stored_records_are_skipped(store: &dyn LogStore, attempt: AttemptId) {
    let records: Vec<_> = (0..4).map(|n| chunk(n, "once")).collect();
    store.append(attempt, &records[..3]).await.expect("an append");
    assert_eq!(store.append(attempt, &records).await.expect("a repeated append"), 4);
    assert_eq!(store.append(attempt, &records[..1]).await.expect("a late append"), 4);
    assert_eq!(store.read(attempt, 0, usize::MAX).await.expect("a read"), records);
}

async fn a_hole_is_refused(store: &dyn LogStore, attempt: AttemptId) {
    store.append(attempt, &[chunk(0, "a")]).await.expect("an append");
    match store.append(attempt, &[chunk(3, "d")]).await {
        Err(LogError::OutOfOrder { expected: 1, got: 3 }) => {}
        other => panic!("a hole gave {other:?}"),
    }
    let gap = LogRecord {
        sequence: 1,
        at: Timestamp::EPOCH,
        body: LogBody::Gap(LogGap { from: 1, to: 3, bytes: 9 }),
    };
    assert_eq!(store.append(attempt, &[gap.clone(), chunk(3, "d")]).await.expect("a gap record fills it"), 4);
    assert_eq!(store.read(attempt, 1, usize::MAX).await.expect("a read"), [gap, chunk(3, "d")]);
}

async fn an_ended_log_rejects_new_records(store: &dyn LogStore, attempt: AttemptId) {
    store.append(attempt, &[chunk(0, "a")]).await.expect("an append");
    store.seal(attempt, LogEnd::Torn).await.expect("an end");
    store.seal(attempt, LogEnd::Complete).await.expect("a second end");
    assert_eq!(store.state(attempt).await.expect("a state").end, Some(LogEnd::Torn), "the first end stays");
    assert!(matches!(store.append(attempt, &[chunk(1, "late")]).await, Err(LogError::Sealed)));
    assert_eq!(store.append(attempt, &[chunk(0, "a")]).await.expect("a repeated append"), 1);
}

async fn attempts_have_separate_logs(store: &dyn LogStore, one: AttemptId, other: AttemptId) {
    let next = AttemptId { number: 2, ..one };
    for (attempt, text) in [(one, "one"), (next, "next"), (other, "other")] {
        store.append(attempt, &[chunk(0, text)]).await.expect("an append");
    }
    store.seal(one, LogEnd::Complete).await.expect("an end");
    assert_eq!(store.state(next).await.expect("a state").end, None);
    assert_eq!(store.read(other, 0, usize::MAX).await.expect("a read"), [chunk(0, "other")]);
}

async fn large_records_and_any_bytes_are_kept(store: &dyn LogStore, attempt: AttemptId) {
    let all: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let records = [chunk(0, all), chunk(1, "")];
    store.append(attempt, &records).await.expect("an append");
    assert_eq!(store.read(attempt, 0, usize::MAX).await.expect("a read"), records);
}
