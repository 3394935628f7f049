use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Weak};

use hodei_core::id::{AttemptId, JobId, WorkerId};
use hodei_core::job::TenantId;
use hodei_core::port::{
    BoxFuture, COORDINATOR_LEASE, Clock, EventBus, IdGenerator, LogStore, Store, WorkerProvider,
};
use hodei_core::scheduling::Scheduler;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Here, Hodei, Inner};
use crate::app::{
    CancelJobUseCase, Committer, CommitterParts, CreateJobUseCase, HealthMonitor, IntakeParts, JobController,
    JobCoordinator, JobDispatcher, JobQueries, LogPersister, ProviderManagementService, QueueStatus,
    ResultIntake, RetentionService, SchedulingService, Sessions, Shutdown, Watches, WorkerGateway,
    WorkerLifecycleManager, WorkerProvisioningService,
};
use crate::config::Settings;
use crate::error::Error;
use crate::link::WorkerDoor;
use crate::provider::ProviderContext;
use crate::task::Tasks;

pub(super) type MakeProvider = Box<dyn FnOnce(ProviderContext) -> Arc<dyn WorkerProvider> + Send>;

/// Gives a data directory back.
pub(super) type Release = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// What every component is made from.
pub(super) struct Base {
    pub(super) store: Arc<dyn Store>,
    pub(super) logs: Arc<dyn LogStore>,
    pub(super) bus: Arc<dyn EventBus>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: Arc<dyn IdGenerator>,
    pub(super) sessions: Sessions,
    pub(super) versions: Watches<JobId, u64>,
    pub(super) log_news: Watches<AttemptId, u64>,
    pub(super) settings: Settings,
    pub(super) tasks: Tasks,
    pub(super) release: Option<Release>,
}

impl Base {
    /// Starts a platform that runs jobs.
    pub(super) async fn start(
        self,
        providers: Vec<MakeProvider>,
        scheduler: Arc<dyn Scheduler>,
    ) -> Result<Hodei, Error> {
        // A start that fails, or that nobody waits for any more, leaves no half of a platform.
        let unfinished = self.tasks.stop().clone().drop_guard();
        let dispatcher = JobDispatcher::new(self.sessions.clone());
        let committer = Committer::start(&self.tasks, self.committer_parts(&dispatcher));
        let management = ProviderManagementService {
            store: self.store.clone(),
            committer: committer.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
        };
        let door = Arc::new(LateDoor::default());
        let exits = Arc::new(Notify::new());
        let context = ProviderContext {
            owner: self.store.id(),
            door: door.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            tasks: self.tasks.clone(),
            exits: exits.clone(),
        };
        let providers = providers.into_iter().map(|make| make(context.clone())).collect();
        let providers = management.bootstrap(providers).await?;
        let lifecycle = self.lifecycle(&committer, providers.clone());
        let gateway = self.gateway(&committer, &dispatcher, &lifecycle);
        let gateway = Arc::new(gateway);
        door.0.get_or_init(|| Arc::downgrade(&gateway));
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
            exits,
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
        let retention = RetentionService {
            store: self.store.clone(),
            logs: self.logs.clone(),
            clock: self.clock.clone(),
            history: self.settings.history,
        };
        self.tasks.spawn("retention", retention.run());
        let (status, draining) = (Arc::default(), CancellationToken::new());
        let shutdown = self.shutdown(lifecycle.clone(), draining.clone());
        self.coordinate(&committer, dispatcher, lifecycle, scheduler, &status, draining).await?;
        unfinished.disarm();
        Ok(self.platform(committer, status, Some((shutdown, gateway))))
    }

    /// Starts a platform that only reads and writes.
    pub(super) fn start_passive(self) -> Hodei {
        let dispatcher = JobDispatcher::new(self.sessions.clone());
        let committer = Committer::start(&self.tasks, self.committer_parts(&dispatcher));
        self.platform(committer, Arc::default(), None)
    }

    fn platform(
        self,
        committer: Committer,
        status: Arc<Mutex<QueueStatus>>,
        running: Option<(Shutdown, Arc<WorkerGateway>)>,
    ) -> Hodei {
        let controller = self.controller(committer);
        let drain_timeout = self.settings.drain_timeout;
        let Base { tasks, store, release, .. } = self;
        let tenant = TenantId::default();
        Hodei {
            inner: Arc::new(Inner::Here(Box::new(Here {
                controller,
                tasks,
                store,
                release,
                running,
                status,
                tenant,
                drain_timeout,
            }))),
        }
    }

    fn shutdown(&self, lifecycle: WorkerLifecycleManager, draining: CancellationToken) -> Shutdown {
        let on_shutdown = self.settings.on_shutdown;
        Shutdown { store: self.store.clone(), clock: self.clock.clone(), lifecycle, on_shutdown, draining }
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
            lifecycle: lifecycle.clone(),
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
        status: &Arc<Mutex<QueueStatus>>,
        draining: CancellationToken,
    ) -> Result<(), Error> {
        let epoch = self.store.take_lease(COORDINATOR_LEASE).await?;
        let (store, clock, ids) = (self.store.clone(), self.clock.clone(), self.ids.clone());
        let status = status.clone();
        let coordinator = JobCoordinator {
            scheduling: SchedulingService::new(store.clone(), clock.clone(), ids, scheduler, epoch, status),
            draining,
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
        let queries = JobQueries {
            store,
            clock: clock.clone(),
            versions: self.versions.clone(),
            sessions: self.sessions.clone(),
        };
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

/// A door that providers get before the house behind it stands. It does not keep the house: what a provider holds
/// would otherwise hold the provider, and the store with them.
#[derive(Debug, Default)]
struct LateDoor(std::sync::OnceLock<Weak<WorkerGateway>>);

impl LateDoor {
    fn gateway(&self) -> Result<Arc<WorkerGateway>, hodei_agent::ConnectError> {
        self.0.get().and_then(Weak::upgrade).ok_or_else(|| {
            hodei_agent::ConnectError::Unavailable("the platform is starting or has stopped".into())
        })
    }
}

#[async_trait::async_trait]
impl WorkerDoor for LateDoor {
    async fn open(
        &self,
        worker: WorkerId,
        incarnation: uuid::Uuid,
    ) -> Result<hodei_agent::Connection, hodei_agent::ConnectError> {
        self.gateway()?.open(worker, incarnation).await
    }

    async fn issue_token(&self, worker: WorkerId) -> Result<String, hodei_agent::ConnectError> {
        self.gateway()?.issue_token(worker).await
    }
}
