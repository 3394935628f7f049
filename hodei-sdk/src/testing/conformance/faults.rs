//! Conformance suites under faults: a caller whose call fails retries it, and its effect happens once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hodei_core::decision::AggregateId;
use hodei_core::event::channel::JOB_QUEUE_CHANNEL;
use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::{JobInput, JobStatus};
use hodei_core::port::{
    AuditRepository, CommitError, Delivery, EventBus, Fence, JobRepository, LogBody, LogEnd, LogError,
    LogRecord, LogStore, LogStream, Store, StoreError,
};
use hodei_core::time::Timestamp;
use uuid::Uuid;

use super::model::event_names;
use super::world::{Maker, command, job};
use crate::clock::SystemClock;
use crate::layer::chaos::{ChaosBus, ChaosLogStore, ChaosStore, Fault, Faults};

/// Faults for the next calls, in order; later calls have none.
#[derive(Debug, Default)]
struct Script(Mutex<VecDeque<Fault>>);

impl Script {
    fn then(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(fault);
    }
}

impl Faults for Script {
    fn next(&self, _: &'static str) -> Fault {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(Fault::None)
    }
}

const SLOW: Fault = Fault::Slow(Duration::from_millis(2));

/// Checks the contract of a [`Store`] whose calls fail, are slow, are made twice, or take effect and report a failure.
/// `make` returns a fresh, empty store.
///
/// # Panics
/// When the store breaks the contract.
pub async fn store_under_faults<S: Store>(make: impl AsyncFn(Uuid) -> Arc<S>) {
    let maker = Maker::new(5);
    for fault in [Fault::None, SLOW, Fault::Fails, Fault::SaysFailed, Fault::Twice] {
        let script = Arc::new(Script::default());
        let inner: Arc<dyn Store> = make(maker.uuid()).await;
        let store = ChaosStore::new(inner, Arc::new(SystemClock::default()), script.clone());
        let submit = maker.submit("t", command());
        let id = job(&submit).id();
        for decision in [submit.clone(), maker.step(&job(&submit), JobInput::Cancel)] {
            script.then(fault);
            commit_with_retry(&store, &maker, &decision, fault).await;
        }
        script.then(fault);
        let read = store.jobs(&[id]).await;
        let read = if read.is_ok() { read } else { store.jobs(&[id]).await };
        let stored = read.expect("a read").pop().flatten().expect("the job is there");
        assert_eq!((stored.version(), stored.status()), (2, JobStatus::Cancelled), "after {fault:?}");
        let names = event_names(&store, &submit).await;
        assert_eq!(names, ["JobCreated", "JobQueued", "JobCancelled"], "each event once after {fault:?}");

        script.then(fault);
        if store.forget(&[id], Timestamp::EPOCH).await.is_err() {
            store.forget(&[id], Timestamp::EPOCH).await.expect("an end");
        }
        assert_eq!(store.jobs(&[id]).await.expect("a read"), [None]);
        assert_eq!(store.history(AggregateId::Job(id)).await.expect("a read"), []);
    }
}

/// Commits until there is an answer; a conflict with the write itself means that the first attempt took effect.
async fn commit_with_retry(
    store: &ChaosStore,
    maker: &Maker,
    decision: &hodei_core::decision::Decision,
    fault: Fault,
) {
    let write = [maker.write(decision)];
    match store.commit(Fence::None, &write).await {
        Ok(outcomes) => {
            assert!(
                matches!(fault, Fault::None | Fault::Slow(_) | Fault::Twice),
                "{fault:?} reported success"
            );
            assert_eq!(outcomes, [Ok(())], "the first answer counts");
        }
        Err(StoreError::Unavailable { .. }) => {
            let again = store.commit(Fence::None, &write).await.expect("a second try");
            let done = Err(CommitError::Conflict { actual: Some(decision.next.version()) });
            let expected = if fault == Fault::Fails { Ok(()) } else { done };
            assert_eq!(again, [expected], "after {fault:?}");
        }
        Err(other) => panic!("{fault:?} gave {other:?}"),
    }
}

/// Checks the contract of a [`LogStore`] under the same faults. `make` returns a fresh, empty one.
///
/// # Panics
/// When the store breaks the contract.
pub async fn logs_under_faults<L: LogStore>(make: impl AsyncFn() -> Arc<L>) {
    let maker = Maker::new(6);
    for fault in [Fault::None, SLOW, Fault::Fails, Fault::SaysFailed, Fault::Twice] {
        let script = Arc::new(Script::default());
        let inner: Arc<dyn LogStore> = make().await;
        let logs = ChaosLogStore::new(inner, Arc::new(SystemClock::default()), script.clone());
        let attempt = AttemptId { job: JobId::from_uuid(maker.uuid()), number: 1 };
        let record = |sequence: u64| {
            let body = LogBody::Chunk { stream: LogStream::Stdout, bytes: vec![sequence as u8; 10].into() };
            LogRecord { sequence, at: Timestamp::EPOCH, body }
        };
        let records: Vec<_> = (0..6).map(record).collect();
        for pair in records.chunks(2) {
            script.then(fault);
            let mut next = logs.append(attempt, pair).await;
            if next.is_err() {
                next = logs.append(attempt, pair).await;
            }
            assert_eq!(next.expect("a second try"), pair[1].next(), "after {fault:?}");
        }
        script.then(fault);
        if logs.seal(attempt, LogEnd::Complete).await.is_err() {
            logs.seal(attempt, LogEnd::Complete).await.expect("a second try");
        }
        assert_eq!(logs.read(attempt, 0, usize::MAX).await.expect("a read"), records, "after {fault:?}");
        let state = logs.state(attempt).await.expect("a state");
        assert_eq!((state.next, state.bytes, state.end), (6, 60, Some(LogEnd::Complete)));
        assert!(matches!(logs.append(attempt, &[record(6)]).await, Err(LogError::Sealed)));
        script.then(fault);
        if logs.remove(&[attempt]).await.is_err() {
            logs.remove(&[attempt]).await.expect("a second try");
        }
        assert_eq!(logs.read(attempt, 0, usize::MAX).await.expect("a read"), []);
    }
}

/// Checks the contract of an [`EventBus`] that loses and repeats messages: events arrive complete and in order, and no
/// subscriber waits for a lost one. `make` returns a fresh one.
///
/// # Panics
/// When the bus breaks the contract.
pub async fn bus_under_faults<B: EventBus>(make: impl AsyncFn() -> Arc<B>) {
    let maker = Maker::new(7);
    let (script, bus) = (Arc::new(Script::default()), make().await);
    let bus = ChaosBus::new(bus, script.clone());
    let mut inbox = bus.subscribe(&[JOB_QUEUE_CHANNEL]);
    let mut expected = Vec::new();
    for fault in [Fault::None, Fault::Fails, Fault::SaysFailed, Fault::Twice, SLOW] {
        script.then(fault);
        let events = maker.write(&maker.submit("t", command())).events;
        let published = bus.publish(&events).await;
        assert_eq!(published.is_err(), fault == Fault::Fails);
        let times = match fault {
            Fault::Fails | Fault::Breaks | Fault::SaysFailed => 0,
            Fault::Twice => 2,
            Fault::None | Fault::Slow(_) | Fault::Stale => 1,
        };
        let queued = events.iter().filter(|event| event.event.name() == "JobQueued");
        (0..times).for_each(|_| expected.extend(queued.clone().cloned()));
    }
    let mut arrived = Vec::new();
    while arrived.len() < expected.len() {
        match inbox.next().await {
            Delivery::Events(events) => arrived.extend(events.iter().cloned()),
            Delivery::Lagged => panic!("a few events are not too many"),
        }
    }
    assert_eq!(arrived, expected);
    assert!(inbox.try_next().is_none());
}
