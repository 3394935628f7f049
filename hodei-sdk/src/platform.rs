//! Wires everything together: the one place that names application and adapters at once.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use hodei_core::event::Envelope;
use hodei_core::id::{JobId, StoreId, WorkerId};
use hodei_core::job::{Job, JobSpec, TenantId};
use hodei_core::port::{
    COORDINATOR_LEASE, Clock, EventBus, IdGenerator, JobFilter, JobPage, LogStore, Store, WorkerProvider,
};
use hodei_core::scheduling::{Scheduler, SmartScheduler};
use hodei_core::worker::Worker;

use crate::app::{
    CancelJobUseCase, Committer, CommitterParts, CreateJobUseCase, HealthMonitor, IntakeParts, JobController,
    JobCoordinator, JobDispatcher, JobLogs, JobQueries, JobWatch, LogPersister, ProviderManagementService,
    QueueStatus, ResultIntake, SchedulingService, Sessions, Watches, WorkerGateway, WorkerLifecycleManager,
    WorkerProvisioningService,
};
use crate::bus::memory::MemoryEventBus;
use crate::clock::SystemClock;
use crate::config::Settings;
use crate::error::Error;
use crate::ids::SystemIds;
use crate::link::WorkerDoor;
use crate::provider::ProviderContext;
use crate::provider::local::{LocalOptions, LocalProvider};
use crate::storage::memory::{MemoryLogStore, MemoryStore};
use crate::task::Tasks;

/// A job platform. Cheap to clone; all clones are the same platform.
///
/// When the last clone is dropped the platform stops at once and kills what runs; [`shutdown`](Self::shutdown)
/// is the friendly way.
#[derive(Clone)]
pub struct Hodei {
    inner: Arc<Inner>,
}

struct Inner {
    controller: JobController,
    tasks: Tasks,
    clock: Arc<dyn Clock>,
    store: Arc<dyn Store>,
    settings: Settings,
    status: Arc<Mutex<QueueStatus>>,
    tenant: TenantId,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

impl fmt::Debug for Hodei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hodei").field("store", &self.inner.store.id()).finish_non_exhaustive()
    }
}

type MakeProvider = Box<dyn FnOnce(ProviderContext) -> Arc<dyn WorkerProvider> + Send>;

/// Composes a platform; everything has a default.
pub struct HodeiBuilder {
    store: Option<Arc<dyn Store>>,
    logs: Option<Arc<dyn LogStore>>,
    bus: Option<Arc<dyn EventBus>>,
    clock: Option<Arc<dyn Clock>>,
    ids: Option<Arc<dyn IdGenerator>>,
    scheduler: Option<Arc<dyn Scheduler>>,
    providers: Vec<MakeProvider>,
    settings: Settings,
}

impl fmt::Debug for HodeiBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HodeiBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl HodeiBuilder {
    /// Keeps everything in this store; by default in memory.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Keeps output in this store; by default in memory.
    #[must_use]
    pub fn log_store(mut self, logs: Arc<dyn LogStore>) -> Self {
        self.logs = Some(logs);
        self
    }

    /// Sends hints over this bus; by default within the process.
    #[must_use]
    pub fn event_bus(mut self, bus: Arc<dyn EventBus>) -> Self {
        self.bus = Some(bus);
        self
    }

    /// Goes by this clock; by default the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Takes ids from here; by default random ones.
    #[must_use]
    pub fn ids(mut self, ids: Arc<dyn IdGenerator>) -> Self {
        self.ids = Some(ids);
        self
    }

    /// Plans with this scheduler; by default a [`SmartScheduler`].
    #[must_use]
    pub fn scheduler(mut self, scheduler: Arc<dyn Scheduler>) -> Self {
        self.scheduler = Some(scheduler);
        self
    }

    /// Adds a provider, made from what the platform gives it. Without any, there is a
    /// [`LocalProvider`] with its defaults.
    #[must_use]
    pub fn provider<P: WorkerProvider>(
        mut self,
        make: impl FnOnce(ProviderContext) -> P + Send + 'static,
    ) -> Self {
        self.providers.push(Box::new(move |context| Arc::new(make(context))));
        self
    }

    /// Runs by these numbers.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Starts the platform on the caller's tokio runtime.
    ///
    /// # Errors
    /// The store's, when the providers cannot be written to it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(self) -> Result<Hodei, Error> {
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock::default()));
        let ids = self.ids.unwrap_or_else(|| Arc::new(SystemIds::default()));
        let store = self.store.unwrap_or_else(|| Arc::new(MemoryStore::new(ids.uuid(clock.now()))));
        let base = Base {
            logs: self.logs.unwrap_or_else(|| Arc::new(MemoryLogStore::default())),
            bus: self.bus.unwrap_or_else(|| Arc::new(MemoryEventBus::default())),
            sessions: Sessions::default(),
            versions: Watches::default(),
            log_news: Watches::default(),
            tasks: Tasks::new(),
            settings: self.settings,
            clock,
            ids,
            store,
        };
        let mut providers = self.providers;
        if providers.is_empty() {
            providers
                .push(Box::new(|context| Arc::new(LocalProvider::new(context, LocalOptions::default()))));
        }
        let scheduler = self.scheduler.unwrap_or_else(|| Arc::new(SmartScheduler::default()));
        base.start(providers, scheduler).await
    }
}

/// What every component is made from.
struct Base {
    store: Arc<dyn Store>,
    logs: Arc<dyn LogStore>,
    bus: Arc<dyn EventBus>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGenerator>,
    sessions: Sessions,
    versions: Watches<JobId, u64>,
    log_news: Watches<hodei_core::id::AttemptId, u64>,
    settings: Settings,
    tasks: Tasks,
}

impl Base {
    async fn start(
        self,
        providers: Vec<MakeProvider>,
        scheduler: Arc<dyn Scheduler>,
    ) -> Result<Hodei, Error> {
        let dispatcher = JobDispatcher::new(self.sessions.clone());
        let committer = Committer::start(&self.tasks, self.committer_parts(&dispatcher));
        let management = ProviderManagementService {
            store: self.store.clone(),
            committer: committer.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
        };
        let door = Arc::new(LateDoor::default());
        let context = ProviderContext {
            owner: self.store.id(),
            door: door.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            tasks: self.tasks.clone(),
        };
        let providers = providers.into_iter().map(|make| make(context.clone())).collect();
        let providers = management.bootstrap(providers).await?;
        let lifecycle = self.lifecycle(&committer, providers.clone());
        let gateway = self.gateway(&committer, &dispatcher, &lifecycle);
        door.0.get_or_init(|| Arc::new(gateway));
        let provisioning = WorkerProvisioningService {
            store: self.store.clone(),
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            providers,
            management,
            lifecycle: lifecycle.clone(),
            sessions: self.sessions.clone(),
            settings: self.settings.clone(),
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn("provisioning service", provisioning.run());
        let health = HealthMonitor {
            store: self.store.clone(),
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            lifecycle: lifecycle.clone(),
            settings: self.settings.clone(),
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn("health monitor", health.run());
        let status = Arc::new(Mutex::new(QueueStatus::default()));
        self.coordinate(&committer, dispatcher, lifecycle, scheduler, status.clone()).await?;
        let controller = self.controller(committer);
        let Base { tasks, clock, store, settings, .. } = self;
        let tenant = TenantId::default();
        Ok(Hodei { inner: Arc::new(Inner { controller, tasks, clock, store, settings, status, tenant }) })
    }

    fn committer_parts(&self, dispatcher: &JobDispatcher) -> CommitterParts {
        CommitterParts {
            store: self.store.clone(),
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            dispatcher: dispatcher.clone(),
            jobs: self.versions.clone(),
        }
    }

    fn lifecycle(&self, committer: &Committer, providers: crate::app::Providers) -> WorkerLifecycleManager {
        WorkerLifecycleManager {
            store: self.store.clone(),
            logs: self.logs.clone(),
            bus: self.bus.clone(),
            committer: committer.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            providers,
            sessions: self.sessions.clone(),
            log_news: self.log_news.clone(),
            settings: self.settings.clone(),
        }
    }

    fn gateway(
        &self,
        committer: &Committer,
        dispatcher: &JobDispatcher,
        lifecycle: &WorkerLifecycleManager,
    ) -> WorkerGateway {
        let parts = IntakeParts {
            store: self.store.clone(),
            bus: self.bus.clone(),
            committer: committer.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            sessions: self.sessions.clone(),
            dispatcher: dispatcher.clone(),
        };
        let results = ResultIntake::start(&self.tasks, parts);
        let persister = LogPersister {
            logs: self.logs.clone(),
            store: self.store.clone(),
            results: results.clone(),
            sessions: self.sessions.clone(),
            dispatcher: dispatcher.clone(),
            news: self.log_news.clone(),
            clock: self.clock.clone(),
            limit: self.settings.log_limit,
        };
        WorkerGateway {
            store: self.store.clone(),
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            sessions: self.sessions.clone(),
            dispatcher: dispatcher.clone(),
            results,
            persister,
            lifecycle: lifecycle.clone(),
            settings: self.settings.clone(),
            tasks: self.tasks.clone(),
        }
    }

    async fn coordinate(
        &self,
        committer: &Committer,
        dispatcher: JobDispatcher,
        lifecycle: WorkerLifecycleManager,
        scheduler: Arc<dyn Scheduler>,
        status: Arc<Mutex<QueueStatus>>,
    ) -> Result<(), Error> {
        let epoch = self.store.take_lease(COORDINATOR_LEASE).await?;
        let (store, clock, ids) = (self.store.clone(), self.clock.clone(), self.ids.clone());
        let coordinator = JobCoordinator {
            scheduling: SchedulingService::new(store.clone(), clock.clone(), ids, scheduler, epoch, status),
            store,
            bus: self.bus.clone(),
            clock,
            committer: committer.clone(),
            dispatcher,
            lifecycle,
            sessions: self.sessions.clone(),
            settings: self.settings.clone(),
            tasks: self.tasks.clone(),
            epoch,
            watched: crate::app::Watched::default(),
        };
        self.tasks.spawn("coordinator", coordinator.run());
        Ok(())
    }

    fn controller(&self, committer: Committer) -> JobController {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let create =
            CreateJobUseCase { store: store.clone(), committer: committer.clone(), clock: clock.clone() };
        let cancel = CancelJobUseCase { store: store.clone(), committer, clock: clock.clone() };
        let queries = JobQueries { store, clock: clock.clone(), versions: self.versions.clone() };
        JobController {
            create,
            cancel,
            queries,
            logs: self.logs.clone(),
            log_news: self.log_news.clone(),
            clock,
            ids: self.ids.clone(),
            closed: AtomicBool::new(false),
        }
    }
}

/// A door that providers get before the house behind it stands.
#[derive(Debug, Default)]
struct LateDoor(std::sync::OnceLock<Arc<WorkerGateway>>);

#[async_trait::async_trait]
impl WorkerDoor for LateDoor {
    async fn open(
        &self,
        worker: WorkerId,
        incarnation: uuid::Uuid,
    ) -> Result<hodei_agent::Connection, hodei_agent::ConnectError> {
        match self.0.get() {
            Some(gateway) => gateway.open(worker, incarnation).await,
            None => Err(hodei_agent::ConnectError::Unavailable("the platform is starting".into())),
        }
    }
}

impl Hodei {
    /// A platform in memory that runs jobs as child processes of this one.
    ///
    /// # Errors
    /// None at present.
    pub async fn local() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// Composes a platform from parts.
    pub fn builder() -> HodeiBuilder {
        HodeiBuilder {
            store: None,
            logs: None,
            bus: None,
            clock: None,
            ids: None,
            scheduler: None,
            providers: Vec::new(),
            settings: Settings::default(),
        }
    }

    /// Accepts a job. When this returns, the job is stored.
    ///
    /// Not cancel safe: when dropped, the job may have been accepted; use [`submit_as`](Self::submit_as) to be
    /// able to ask again.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names the field that no provider here honours; [`Error::AlreadyExists`] the job that
    /// has the idempotency key; [`Error::QueueFull`], [`Error::ShuttingDown`], or the store's.
    pub async fn submit(&self, spec: JobSpec) -> Result<JobHandle, Error> {
        let mut answers = self.inner.controller.submit(&self.inner.tenant, vec![spec]).await?;
        let job = answers.pop().unwrap_or(Err(Error::ShuttingDown))?;
        Ok(self.job(job.id()))
    }

    /// Accepts a job under an id of the caller's (a UUID of version 7): asking again with the same id and spec
    /// finds the first.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); [`Error::AlreadyExists`] also when the id belongs to another spec.
    pub async fn submit_as(&self, id: JobId, spec: JobSpec) -> Result<JobHandle, Error> {
        let job = self.inner.controller.submit_as(&self.inner.tenant, id, spec).await?;
        Ok(self.job(job.id()))
    }

    /// Accepts many jobs, each for itself: one that is refused harms no other. The answers are in order.
    ///
    /// # Errors
    /// When none could be taken at all; as [`submit`](Self::submit) for each.
    pub async fn submit_batch(&self, specs: Vec<JobSpec>) -> Result<Vec<Result<JobHandle, Error>>, Error> {
        let answers = self.inner.controller.submit(&self.inner.tenant, specs).await?;
        Ok(answers.into_iter().map(|answer| answer.map(|job| self.job(job.id()))).collect())
    }

    /// Accepts a job that repeats one that ended; the new one has `retry_of`.
    ///
    /// # Errors
    /// [`Error::NotFound`], or as [`submit`](Self::submit).
    pub async fn retry(&self, id: JobId) -> Result<JobHandle, Error> {
        let job = self.inner.controller.retry(&self.inner.tenant, id).await?;
        Ok(self.job(job.id()))
    }

    /// The handle of a job; whether there is one is found out when it is used.
    pub fn job(&self, id: JobId) -> JobHandle {
        JobHandle { platform: self.clone(), id }
    }

    /// The present state of a job.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn get(&self, id: JobId) -> Result<Arc<Job>, Error> {
        self.inner.controller.queries.get(&self.inner.tenant, id).await
    }

    /// One page of jobs, the newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self, filter: JobFilter) -> Result<JobPage, Error> {
        let filter = JobFilter { tenant: self.inner.tenant.clone(), ..filter };
        self.inner.controller.queries.list(&filter).await
    }

    /// Cancels a job that waits; asks one that runs to stop, with TERM, then KILL after its grace.
    ///
    /// # Errors
    /// [`Error::Ended`] when it is over, [`Error::NotFound`], or the store's.
    pub async fn cancel(&self, id: JobId) -> Result<Arc<Job>, Error> {
        self.inner.controller.cancel.cancel(&self.inner.tenant, id).await
    }

    /// The states of a job as they come, beginning with the present one.
    pub fn watch(&self, id: JobId) -> JobWatch {
        self.inner.controller.queries.watch(&self.inner.tenant, id)
    }

    /// The output of a job as it comes, from its beginning.
    pub fn logs(&self, id: JobId) -> JobLogs {
        self.inner.controller.logs(&self.inner.tenant, id)
    }

    /// Everything that happened to a job, oldest first.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn history(&self, id: JobId) -> Result<Vec<Envelope>, Error> {
        self.inner.controller.queries.history(&self.inner.tenant, id).await
    }

    /// Up to `limit` stored events of all that happened after the sequence number `after`, in order.
    ///
    /// # Errors
    /// The store's.
    pub async fn events(&self, after: u64, limit: usize) -> Result<Vec<Envelope>, Error> {
        self.inner.controller.queries.feed(after, limit).await
    }

    /// The workers that are not terminated.
    ///
    /// # Errors
    /// The store's.
    pub async fn workers(&self) -> Result<Vec<Arc<Worker>>, Error> {
        self.inner.controller.queries.workers().await
    }

    /// One worker; also one that is terminated, while it is remembered.
    ///
    /// # Errors
    /// The store's.
    pub async fn worker(&self, id: WorkerId) -> Result<Option<Arc<Worker>>, Error> {
        self.inner.controller.queries.worker(id).await
    }

    /// The queue as the last round of scheduling left it.
    pub fn queue(&self) -> QueueStatus {
        self.inner.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The id of the store: the owner of everything that this platform creates.
    pub fn store_id(&self) -> StoreId {
        self.inner.store.id()
    }

    /// Takes nothing more, waits for running jobs up to [`Settings::drain_timeout`], then kills what is left and
    /// ends every task. Jobs that were waiting stay in the store.
    pub async fn shutdown(self) {
        self.inner.controller.close();
        let deadline = self.inner.clock.monotonic() + self.inner.settings.drain_timeout;
        while self.is_running_jobs().await && self.inner.clock.monotonic() < deadline {
            self.inner.clock.sleep(std::time::Duration::from_millis(20)).await;
        }
        self.inner.tasks.shutdown().await;
    }

    async fn is_running_jobs(&self) -> bool {
        for worker in self.workers().await.unwrap_or_default() {
            if self.inner.store.jobs_of_worker(worker.id()).await.is_ok_and(|jobs| !jobs.is_empty()) {
                return true;
            }
        }
        false
    }
}

/// One job of a platform.
#[derive(Debug, Clone)]
pub struct JobHandle {
    platform: Hodei,
    id: JobId,
}

impl JobHandle {
    /// Its id.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Its output as it comes, from its beginning.
    pub fn logs(&self) -> JobLogs {
        self.platform.logs(self.id)
    }

    /// Waits for its end. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn wait(&self) -> Result<Arc<Job>, Error> {
        self.platform.watch(self.id).ended().await
    }

    /// Cancels it: see [`Hodei::cancel`].
    ///
    /// # Errors
    /// As [`Hodei::cancel`].
    pub async fn cancel(&self) -> Result<Arc<Job>, Error> {
        self.platform.cancel(self.id).await
    }

    /// Its present state.
    ///
    /// # Errors
    /// As [`Hodei::get`].
    pub async fn get(&self) -> Result<Arc<Job>, Error> {
        self.platform.get(self.id).await
    }
}
