//! Conformance suites for the durability of stores and log stores.

use std::sync::Arc;

use hodei_core::decision::{AggregateId, Score};
use hodei_core::event::LogGap;
use hodei_core::id::{AttemptId, DaemonId, JobId, WorkerId};
use hodei_core::job::{Job, JobInput, JobStatus, TenantId};
use hodei_core::port::{
    COORDINATOR_LEASE, CommitError, Epoch, FeedCursor, Fence, JobFilter, LogBody, LogEnd, LogError,
    LogRecord, LogStore, LogStream, Store,
};
use hodei_core::time::Timestamp;
use hodei_core::worker::WorkerInput;
use uuid::Uuid;

use super::world::{Maker, command, feed, job, worker};

/// Checks the contract of a durable [`Store`]. `open` opens the same store each time; at the first call it is fresh and
/// empty, and takes the id. Each store is dropped before the next one is opened.
///
/// # Panics
/// When the store breaks the contract.
pub async fn durable_store<S: Store>(open: impl AsyncFn(Uuid) -> Arc<S>) {
    let maker = Maker::new(8);
    let first = open(maker.uuid()).await;
    let id = first.id();
    let order = maker.order(id);
    let worker_id = order.worker;
    let ordered = maker.worker(None, WorkerInput::Order(order));
    maker.store(&*first, &ordered).await;
    let (jobs, submitted) = forty_jobs(&maker, &*first, worker_id).await;
    let events = ordered.events.len() + submitted;
    let seen = feed(&*first, &FeedCursor::default(), events).await;
    let daemon = DaemonId::from_uuid(maker.uuid());
    let taken = first.take_lease(COORDINATOR_LEASE, Epoch(0), daemon).await.expect("a lease");
    let epoch = taken.expect("the lease is free");
    drop(first);

    let again = open(maker.uuid()).await;
    assert_eq!(again.id(), id, "the id stays, whichever id a later start offers");
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id()).collect();
    let found = again.jobs(&ids).await.expect("a read");
    assert_eq!(found, jobs.iter().cloned().map(Some).collect::<Vec<_>>());
    assert_eq!(feed(&*again, &FeedCursor::default(), events).await, seen);
    assert_eq!(again.live_workers().await.expect("a read"), [worker(&ordered)]);
    let assigned = again.jobs_of_workers(&[worker_id]).await.expect("a read");
    assert_eq!(assigned.len(), jobs.iter().filter(|job| job.assignment().is_some()).count());
    let open_now = again.open_jobs(None, 1000).await.expect("a read");
    let listed: Vec<_> = jobs.iter().map(|job| Arc::new(job.listing())).collect();
    assert_eq!(open_now, listed, "in the order of their ids");
    let filter =
        JobFilter { tenant: TenantId::new("t"), statuses: vec![JobStatus::Pending], ..JobFilter::default() };
    assert_eq!(again.list_jobs(&filter).await.expect("a read").jobs.len(), 14);

    // Versions, keys and epochs from before still count.
    let stale = maker.step(&jobs[0], JobInput::Cancel);
    maker.store(&*again, &stale).await;
    let refused = again.commit(Fence::None, &[maker.write(&stale)]).await.expect("a commit");
    assert_eq!(refused, [Err(CommitError::Conflict { actual: Some(2) })]);
    let twin = maker.submit("t", command().idempotency_key("key"));
    let refused = again.commit(Fence::None, &[maker.write(&twin)]).await.expect("a commit");
    assert_eq!(refused, [Err(CommitError::Duplicate { existing: jobs[0].id() })]);
    let other = DaemonId::from_uuid(maker.uuid());
    let stale = again.take_lease(COORDINATOR_LEASE, Epoch(0), other).await.expect("a lease");
    assert_eq!(stale, None, "an epoch is never used twice");
    let next = again.take_lease(COORDINATOR_LEASE, epoch, other).await.expect("a lease");
    assert_eq!(next, Some(Epoch(epoch.0 + 1)));

    // Event numbers continue, even after the last events were forgotten.
    let all = again.feed(&FeedCursor::default(), 1000).await.expect("a read").events;
    let last = all.last().map_or(0, |event| event.sequence);
    again.forget(&[jobs[0].id()], Timestamp::EPOCH).await.expect("an end");
    drop(again);
    let third = open(maker.uuid()).await;
    let next = maker.submit("t", command());
    maker.store(&*third, &next).await;
    let history = third.history(AggregateId::Job(job(&next).id())).await.expect("a read");
    assert!(history[0].sequence > last, "{} comes after {last}", history[0].sequence);
    let lost = third.workers(&[WorkerId::from_uuid(maker.uuid())]).await.expect("a read");
    assert_eq!(lost, [None]);
}

/// Stores forty jobs: pending, assigned, and assigned with a cancel that is asked for. Returns them by their ids, and the
/// number of their events.
async fn forty_jobs<S: Store>(maker: &Maker, store: &S, worker: WorkerId) -> (Vec<Arc<Job>>, usize) {
    let (mut jobs, mut events) = (Vec::new(), 0);
    for number in 0..40 {
        let spec = command().stdin(vec![0, 128, 255]).env("K", "v\"\u{1F980}\n");
        let spec = if number == 0 { spec.idempotency_key("key") } else { spec };
        let mut decision = maker.submit("t", spec);
        maker.store(store, &decision).await;
        events += decision.events.len();
        for input in [JobInput::Assign { worker, dispatch: 1, score: Score::default() }, JobInput::Cancel]
            .into_iter()
            .take(number % 3)
        {
            decision = maker.step(&job(&decision), input);
            maker.store(store, &decision).await;
            events += decision.events.len();
        }
        jobs.push(job(&decision));
    }
    jobs.sort_by_key(|job| job.id());
    (jobs, events)
}

/// Checks the contract of a durable [`LogStore`]: acknowledged records survive. `open` opens the same store each time.
///
/// # Panics
/// When the store breaks the contract.
pub async fn durable_logs<L: LogStore>(open: impl AsyncFn() -> Arc<L>) {
    let maker = Maker::new(9);
    let attempts: Vec<AttemptId> =
        (0..20).map(|_| AttemptId { job: JobId::from_uuid(maker.uuid()), number: 1 }).collect();
    let record = |sequence: u64| {
        let gap = LogBody::Gap(LogGap { from: sequence, to: sequence + 1, bytes: 7 });
        let chunk = LogBody::Chunk { stream: LogStream::Stderr, bytes: vec![sequence as u8; 100].into() };
        let body = if sequence % 5 == 4 { gap } else { chunk };
        LogRecord { sequence, at: Timestamp::from_micros(sequence as i64), body }
    };
    // Each start continues where the previous one ended, and finds all of its records.
    for start in 0..4_u64 {
        let logs = open().await;
        for (number, attempt) in attempts.iter().enumerate() {
            let kept: Vec<_> = (0..start * 5).map(record).collect();
            assert_eq!(logs.read(*attempt, 0, usize::MAX).await.expect("a read"), kept);
            let state = logs.state(*attempt).await.expect("a state");
            assert_eq!((state.next, state.bytes), (start * 5, start * 400));
            let new: Vec<_> = (start * 5..start * 5 + 5).map(record).collect();
            assert_eq!(logs.append(*attempt, &new).await.expect("an append"), start * 5 + 5);
            if start == 3 && number % 2 == 0 {
                logs.seal(*attempt, LogEnd::Torn).await.expect("an end");
            }
        }
    }
    let logs = open().await;
    let all: Vec<_> = (0..20).map(record).collect();
    for (number, attempt) in attempts.iter().enumerate() {
        let sealed = number % 2 == 0;
        let state = logs.state(*attempt).await.expect("a state");
        assert_eq!((state.next, state.end), (20, sealed.then_some(LogEnd::Torn)));
        assert_eq!(logs.read(*attempt, 0, usize::MAX).await.expect("a read"), all);
        assert_eq!(logs.read(*attempt, 12, usize::MAX).await.expect("a read"), all[12..]);
        let late = logs.append(*attempt, &[record(20)]).await;
        assert_eq!(matches!(late, Err(LogError::Sealed)), sealed, "an end stays: {late:?}");
    }
    logs.remove(&attempts[..10]).await.expect("an end");
    drop(logs);
    let logs = open().await;
    for (number, attempt) in attempts.iter().enumerate() {
        let left = logs.read(*attempt, 0, usize::MAX).await.expect("a read");
        assert_eq!(left.is_empty(), number < 10, "removed logs do not come back");
    }
}
