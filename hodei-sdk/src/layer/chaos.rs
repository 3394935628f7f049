//! Layers that inject faults into ports. The decorated part stays intact; only the calls to it fail.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hodei_core::decision::{Aggregate, AggregateId};
use hodei_core::event::Envelope;
use hodei_core::id::{AttemptId, JobId, StoreId, WorkerId};
use hodei_core::job::{Job, TenantId};
use hodei_core::port::{
    BusError, Clock, CommitError, Epoch, EventBus, FeedCursor, FeedPage, Fence, JobFilter, JobPage, LogEnd,
    LogError, LogRecord, LogState, LogStore, Store, StoreError, Subscription, Write,
};
use hodei_core::provider::Provider;
use hodei_core::time::Timestamp;
use hodei_core::worker::Worker;

use super::delegate::delegate_reads;

/// Fault of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    None,
    /// The call is delayed by this long, then works.
    Slow(Duration),
    /// The call fails with a retryable error and has no effect.
    Fails,
    /// The call fails with a permanent error and has no effect.
    Breaks,
    /// The call takes effect but reports a failure. For a bus: the message is lost.
    SaysFailed,
    /// The call is made twice, as by an unsure caller; the first answer counts.
    Twice,
    /// The call returns an older state. Only for `recent`, which allows that.
    Stale,
}

/// Decides the fault of each call.
pub trait Faults: Debug + Send + Sync + 'static {
    /// Returns the fault of the next call with this name.
    fn next(&self, call: &'static str) -> Fault;
}

type Call<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// Injects the faults of one layer.
#[derive(Debug, Clone)]
struct Chaos {
    clock: Arc<dyn Clock>,
    faults: Arc<dyn Faults>,
}

impl Chaos {
    async fn call<'a, T: Send, E: From<StoreError>>(
        &self,
        name: &'static str,
        call: impl Fn() -> Call<'a, T, E>,
    ) -> Result<T, E> {
        match self.faults.next(name) {
            Fault::None | Fault::Stale => call().await,
            Fault::Slow(wait) => {
                self.clock.sleep(wait).await;
                call().await
            }
            Fault::Fails => Err(unavailable().into()),
            Fault::Breaks => Err(StoreError::Other("chaos".into()).into()),
            Fault::SaysFailed => {
                call().await?;
                Err(unavailable().into())
            }
            Fault::Twice => {
                let first = call().await;
                let _ = call().await;
                first
            }
        }
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable { retry_after: Duration::from_millis(10), why: "chaos".into() }
}

/// A store with faults in the calls `commit`, `forget`, `read` and `recent`.
#[derive(Debug, Clone)]
pub struct ChaosStore {
    inner: Arc<dyn Store>,
    chaos: Chaos,
    seen: Arc<Mutex<BTreeMap<JobId, Seen>>>,
}

/// The last two seen states of a job.
#[derive(Debug)]
struct Seen {
    last: Arc<Job>,
    before: Option<Arc<Job>>,
}

/// Maximum number of jobs with remembered states.
const MAX_REMEMBERED_JOBS: usize = 1_000;

impl ChaosStore {
    /// Decorates a store.
    pub fn new(inner: Arc<dyn Store>, clock: Arc<dyn Clock>, faults: Arc<dyn Faults>) -> Self {
        Self { inner, chaos: Chaos { clock, faults }, seen: Arc::default() }
    }

    async fn recent(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        let mut jobs = self.read(|| self.inner.recent_jobs(ids)).await?;
        let is_stale = self.chaos.faults.next("recent") == Fault::Stale;
        for job in jobs.iter_mut().flatten() {
            let before = self.see(job);
            if let Some(before) = before.filter(|_| is_stale) {
                *job = before;
            }
        }
        Ok(jobs)
    }

    /// Remembers a state; returns the previous one.
    fn see(&self, job: &Arc<Job>) -> Option<Arc<Job>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() > MAX_REMEMBERED_JOBS {
            seen.clear();
        }
        let known = seen.entry(job.id()).or_insert_with(|| Seen { last: job.clone(), before: None });
        if known.last.version() < job.version() {
            known.before = Some(std::mem::replace(&mut known.last, job.clone()));
        }
        known.before.clone()
    }

    async fn read<'a, T: Send>(&self, call: impl Fn() -> Call<'a, T, StoreError>) -> Result<T, StoreError> {
        self.chaos.call("read", call).await
    }
}

#[async_trait]
impl Store for ChaosStore {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    fn owner(&self) -> StoreId {
        self.inner.owner()
    }

    fn commits_at_once(&self) -> usize {
        self.inner.commits_at_once()
    }

    async fn commit(
        &self,
        fence: Fence,
        writes: &[Write],
    ) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        for write in writes {
            if let Aggregate::Job(job) = &write.next {
                self.see(job);
            }
        }
        self.chaos.call("commit", || self.inner.commit(fence, writes)).await
    }

    async fn forget(&self, jobs: &[JobId], before: Timestamp) -> Result<(), StoreError> {
        self.chaos.call("forget", || self.inner.forget(jobs, before)).await
    }
}

delegate_reads!(ChaosStore);

/// A bus that loses and repeats events: faults in the call `publish`.
#[derive(Debug, Clone)]
pub struct ChaosBus {
    inner: Arc<dyn EventBus>,
    faults: Arc<dyn Faults>,
}

impl ChaosBus {
    /// Decorates a bus.
    pub fn new(inner: Arc<dyn EventBus>, faults: Arc<dyn Faults>) -> Self {
        Self { inner, faults }
    }
}

#[async_trait]
impl EventBus for ChaosBus {
    async fn publish(&self, events: &[Envelope]) -> Result<(), BusError> {
        match self.faults.next("publish") {
            Fault::None | Fault::Slow(_) | Fault::Stale => self.inner.publish(events).await,
            Fault::Fails | Fault::Breaks => Err(BusError("chaos".into())),
            Fault::SaysFailed => Ok(()),
            Fault::Twice => {
                self.inner.publish(events).await?;
                self.inner.publish(events).await
            }
        }
    }

    fn subscribe(&self, channels: &[&'static str]) -> Box<dyn Subscription> {
        self.inner.subscribe(channels)
    }
}

/// A log store with faults in the calls `append`, `seal` and `remove`.
#[derive(Debug, Clone)]
pub struct ChaosLogStore {
    inner: Arc<dyn LogStore>,
    chaos: Chaos,
}

impl ChaosLogStore {
    /// Decorates a log store.
    pub fn new(inner: Arc<dyn LogStore>, clock: Arc<dyn Clock>, faults: Arc<dyn Faults>) -> Self {
        Self { inner, chaos: Chaos { clock, faults } }
    }
}

#[async_trait]
impl LogStore for ChaosLogStore {
    async fn append(&self, attempt: AttemptId, records: &[LogRecord]) -> Result<u64, LogError> {
        self.chaos.call("append", || self.inner.append(attempt, records)).await
    }

    async fn seal(&self, attempt: AttemptId, end: LogEnd) -> Result<(), LogError> {
        self.chaos.call("seal", || self.inner.seal(attempt, end)).await
    }

    async fn read(
        &self,
        attempt: AttemptId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        self.inner.read(attempt, from, max_bytes).await
    }

    async fn state(&self, attempt: AttemptId) -> Result<LogState, LogError> {
        self.inner.state(attempt).await
    }

    async fn remove(&self, attempts: &[AttemptId]) -> Result<(), LogError> {
        self.chaos.call("remove", || self.inner.remove(attempts)).await
    }
}
