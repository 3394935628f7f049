//! Faults as a layer over a port: what is decorated stays as good as it was, only the way to it breaks.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hodei_core::decision::AggregateId;
use hodei_core::event::Envelope;
use hodei_core::id::{AttemptId, JobId, StoreId, WorkerId};
use hodei_core::job::{Job, TenantId};
use hodei_core::port::{
    AuditRepository, BusError, Clock, CommitError, Epoch, EventBus, Fence, JobFilter, JobPage, JobQueue,
    JobRepository, LeaseStore, LogEnd, LogError, LogRecord, LogState, LogStore, ProviderConfigRepository,
    Store, StoreError, Subscription, WorkerRegistry, Write,
};
use hodei_core::provider::Provider;
use hodei_core::worker::Worker;

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It takes this long, then works.
    Slow(Duration),
    /// It fails, and nothing was done.
    Fails,
    /// It was done, and says that it failed. For a bus: the message is lost.
    SaysFailed,
}

/// Decides what goes wrong, call by call.
pub trait Faults: Debug + Send + Sync + 'static {
    /// The fault of the next call of this name.
    fn next(&self, call: &'static str) -> Fault;
}

/// A store whose writes go wrong.
#[derive(Debug, Clone)]
pub struct ChaosStore {
    inner: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    faults: Arc<dyn Faults>,
}

impl ChaosStore {
    /// Decorates a store.
    pub fn new(inner: Arc<dyn Store>, clock: Arc<dyn Clock>, faults: Arc<dyn Faults>) -> Self {
        Self { inner, clock, faults }
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable { retry_after: Duration::from_millis(10), why: "chaos".into() }
}

#[async_trait]
impl Store for ChaosStore {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    async fn commit(
        &self,
        fence: Fence,
        writes: &[Write],
    ) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        match self.faults.next("commit") {
            Fault::None => {}
            Fault::Slow(wait) => self.clock.sleep(wait).await,
            Fault::Fails => return Err(unavailable()),
            Fault::SaysFailed => {
                self.inner.commit(fence, writes).await?;
                return Err(unavailable());
            }
        }
        self.inner.commit(fence, writes).await
    }
}

#[async_trait]
impl JobRepository for ChaosStore {
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        self.inner.jobs(ids).await
    }

    async fn list_jobs(&self, filter: &JobFilter) -> Result<JobPage, StoreError> {
        self.inner.list_jobs(filter).await
    }

    async fn job_by_key(&self, tenant: &TenantId, key: &str) -> Result<Option<JobId>, StoreError> {
        self.inner.job_by_key(tenant, key).await
    }
}

#[async_trait]
impl JobQueue for ChaosStore {
    async fn open_jobs(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Arc<Job>>, StoreError> {
        self.inner.open_jobs(after, limit).await
    }

    async fn jobs_of_worker(&self, worker: WorkerId) -> Result<Vec<Arc<Job>>, StoreError> {
        self.inner.jobs_of_worker(worker).await
    }
}

#[async_trait]
impl WorkerRegistry for ChaosStore {
    async fn workers(&self, ids: &[WorkerId]) -> Result<Vec<Option<Arc<Worker>>>, StoreError> {
        self.inner.workers(ids).await
    }

    async fn live_workers(&self) -> Result<Vec<Arc<Worker>>, StoreError> {
        self.inner.live_workers().await
    }
}

#[async_trait]
impl ProviderConfigRepository for ChaosStore {
    async fn providers(&self) -> Result<Vec<Arc<Provider>>, StoreError> {
        self.inner.providers().await
    }
}

#[async_trait]
impl AuditRepository for ChaosStore {
    async fn history(&self, aggregate: AggregateId) -> Result<Vec<Envelope>, StoreError> {
        self.inner.history(aggregate).await
    }

    async fn feed(&self, after: u64, limit: usize) -> Result<Vec<Envelope>, StoreError> {
        self.inner.feed(after, limit).await
    }
}

#[async_trait]
impl LeaseStore for ChaosStore {
    async fn take_lease(&self, name: &str) -> Result<Epoch, StoreError> {
        self.inner.take_lease(name).await
    }
}

/// A bus that loses what it carries.
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
            Fault::None | Fault::Slow(_) => self.inner.publish(events).await,
            Fault::Fails => Err(BusError("chaos".into())),
            Fault::SaysFailed => Ok(()),
        }
    }

    fn subscribe(&self, channels: &[&'static str]) -> Box<dyn Subscription> {
        self.inner.subscribe(channels)
    }
}

/// A log store whose writes go wrong.
#[derive(Debug, Clone)]
pub struct ChaosLogStore {
    inner: Arc<dyn LogStore>,
    clock: Arc<dyn Clock>,
    faults: Arc<dyn Faults>,
}

impl ChaosLogStore {
    /// Decorates a log store.
    pub fn new(inner: Arc<dyn LogStore>, clock: Arc<dyn Clock>, faults: Arc<dyn Faults>) -> Self {
        Self { inner, clock, faults }
    }
}

#[async_trait]
impl LogStore for ChaosLogStore {
    async fn append(&self, attempt: AttemptId, records: &[LogRecord]) -> Result<u64, LogError> {
        match self.faults.next("append") {
            Fault::None => {}
            Fault::Slow(wait) => self.clock.sleep(wait).await,
            Fault::Fails => return Err(unavailable().into()),
            Fault::SaysFailed => {
                self.inner.append(attempt, records).await?;
                return Err(unavailable().into());
            }
        }
        self.inner.append(attempt, records).await
    }

    async fn seal(&self, attempt: AttemptId, end: LogEnd) -> Result<(), LogError> {
        self.inner.seal(attempt, end).await
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
}
