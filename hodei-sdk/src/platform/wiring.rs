//! Construction of every component of the application from the ports, and the order of their start.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use hodei_agent::{ArtifactParts, TransferError};
use hodei_core::access::Caller;
use hodei_core::id::WorkerId;
use hodei_core::port::{BoxFuture, EventSink, WorkerProvider};
use hodei_proto::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::machine::Machine;
use super::{Hodei, InProcess, Inner, Seams};
use crate::app::{
    AccessService, ArtifactService, AssignmentPreparer, Authorizer, CancelJobUseCase, Committer,
    CommitterParts, CoordinatorParts, CreateJobUseCase, EventForwarder, EventQueries, Failures,
    HealthMonitor, IntakeParts, JobController, JobDispatcher, JobNotifier, JobQueries, Leadership,
    LogNotifier, LogPersister, MAX_PREPARATIONS, Membership, PlanSource, Ports, ProviderManagementService,
    Providers, QueueQueries, RemoteDispatch, ResultIntake, RetentionService, SecretService, Shutdown,
    StreamRegistry, TailBudget, WorkerController, WorkerGateway, WorkerLifecycleManager,
    WorkerProvisioningService,
};
use crate::error::Error;
use crate::layer::guard::{GuardedProvider, GuardedSink};
use crate::link::WorkerDoor;
use crate::provider::ProviderContext;

pub(super) type MakeProvider = Box<dyn FnOnce(ProviderContext) -> Arc<dyn WorkerProvider> + Send>;

/// Closes the stores and releases the data directory.
pub(super) type Release = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// The parts that every component is made from.
pub(super) struct Base {
    pub(super) ports: Arc<Ports>,
    pub(super) streams: StreamRegistry,
    pub(super) membership: Membership,
    pub(super) job_notifier: JobNotifier,
    pub(super) log_notifier: LogNotifier,
    pub(super) release: Option<Release>,
    /// Whether the store outlives this process.
    pub(super) is_durable: bool,
    pub(super) secrets: SecretService,
    pub(super) artifacts: ArtifactService,
    pub(super) authorizer: Authorizer,
}

impl Base {
    /// Starts a platform that runs jobs.
    pub(super) async fn start(
        self,
        providers: Vec<MakeProvider>,
        scheduler: PlanSource,
    ) -> Result<Hodei, Error> {
        // A start that fails or is cancelled stops the tasks that it has spawned.
        let unfinished = self.ports.tasks.stop().clone().drop_guard();
        let (preparations, to_prepare) = mpsc::channel(MAX_PREPARATIONS);
        let dispatcher = JobDispatcher::new(self.streams.clone(), preparations);
        let committer = Committer::start(&self.ports.tasks, self.committer_parts(&dispatcher));
        let management =
            ProviderManagementService { ports: self.ports.clone(), committer: committer.clone() };
        let door = Arc::new(LateDoor::default());
        let context = self.context(door.clone()).await?;
        let (made, exits): (Vec<_>, Vec<_>) = providers
            .into_iter()
            .map(|make| {
                let context = ProviderContext { exits: Arc::default(), ..context.clone() };
                let exits = context.exits.clone();
                (Arc::new(GuardedProvider(make(context))) as Arc<dyn WorkerProvider>, exits)
            })
            .unzip();
        let ids = management.bootstrap(&made).await?;
        let providers: Providers = Arc::new(ids.iter().copied().zip(made).collect());
        let lifecycle = self.lifecycle(&committer, providers.clone());
        let gateway = self.gateway(&committer, &dispatcher, &lifecycle);
        let gateway = Arc::new(gateway);
        let preparer = self.preparer(&gateway);
        self.ports
            .tasks
            .spawn("preparation of assignments", preparer.run(to_prepare, self.ports.tasks.clone()));
        door.0.get_or_init(|| Arc::downgrade(&gateway));
        for (id, exits) in ids.into_iter().zip(exits) {
            let Some(provider) = providers.get(&id).cloned() else { continue };
            let provisioning = WorkerProvisioningService {
                id,
                provider,
                ports: self.ports.clone(),
                management: management.clone(),
                lifecycle: lifecycle.clone(),
                membership: self.membership.clone(),
                exits,
                unproven: Arc::default(),
            };
            self.ports.tasks.spawn("provisioning service", provisioning.run());
        }
        self.ports.tasks.spawn("membership", self.membership.clone().run());
        self.ports.tasks.spawn("remote dispatch", self.remote_dispatch(&dispatcher).run());
        let (bus, ids, clock) = (self.ports.bus.clone(), self.ports.ids.clone(), self.ports.clock.clone());
        self.ports.tasks.spawn("log notifier", self.log_notifier.clone().tell(bus, ids, clock));
        let draining = CancellationToken::new();
        let shutdown = self.shutdown(lifecycle.clone(), draining.clone());
        let leader = self.leader(&committer, dispatcher, lifecycle, scheduler, draining);
        self.ports.tasks.spawn("leader", leader.run());
        unfinished.disarm();
        Ok(self.platform(committer, Some((shutdown, gateway))))
    }

    /// Returns the context that providers are created with.
    async fn context(&self, door: Arc<LateDoor>) -> Result<ProviderContext, Error> {
        // Before the first write: a store that does not answer fails the start.
        self.membership.look().await?;
        let machine = match self.membership.is_shared() {
            true => Some(Machine::find(&self.ports.store, &self.membership).await?),
            false => None,
        };
        Ok(ProviderContext {
            owner: self.ports.store.owner(),
            door,
            clock: self.ports.clock.clone(),
            ids: self.ports.ids.clone(),
            tasks: self.ports.tasks.clone(),
            exits: Arc::default(),
            is_durable: self.is_durable,
            host: machine.as_ref().map(|machine| machine.name.clone()),
            machine: machine.map(|machine| machine.identity),
        })
    }

    /// Sends stored events to a sink, from the sink's own position on.
    pub(super) fn forward_events(&self, sink: Arc<dyn EventSink>) {
        let sink = Arc::new(GuardedSink(sink));
        let forwarder =
            EventForwarder { ports: self.ports.clone(), membership: self.membership.clone(), sink };
        self.ports.tasks.spawn("event forwarder", forwarder.run());
    }

    /// Starts a platform that only reads and writes the store.
    pub(super) fn start_passive(self) -> Hodei {
        // Nothing is dispatched: no worker connects to a passive platform.
        let dispatcher = JobDispatcher::new(self.streams.clone(), mpsc::channel(1).0);
        let committer = Committer::start(&self.ports.tasks, self.committer_parts(&dispatcher));
        self.platform(committer, None)
    }

    fn platform(self, committer: Committer, running: Option<(Shutdown, Arc<WorkerGateway>)>) -> Hodei {
        let lifecycle = running.as_ref().map(|(_, gateway)| gateway.lifecycle.clone());
        let jobs = Arc::new(self.jobs(&committer));
        let access = Arc::new(AccessService {
            ports: self.ports.clone(),
            committer,
            recent: Arc::default(),
            authorizer: self.authorizer.clone(),
        });
        let Base { ports, membership, release, streams, secrets, artifacts, .. } = self;
        let seams = Seams {
            jobs: jobs.clone(),
            workers: Arc::new(WorkerController { ports: ports.clone(), streams, lifecycle }),
            secrets: Arc::new(secrets),
            tokens: access.clone(),
            artifacts: Arc::new(artifacts),
            events: Arc::new(EventQueries { ports: ports.clone() }),
            queue: Arc::new(jobs.queue.clone()),
        };
        let in_process = InProcess {
            jobs,
            #[cfg(feature = "grpc")]
            access,
            ports,
            release,
            running,
            membership,
        };
        Hodei { inner: Arc::new(Inner { seams, in_process: Some(in_process) }), caller: Caller::default() }
    }

    fn shutdown(&self, lifecycle: WorkerLifecycleManager, draining: CancellationToken) -> Shutdown {
        let (ports, membership) = (self.ports.clone(), self.membership.clone());
        Shutdown { ports, lifecycle, membership, draining }
    }

    fn committer_parts(&self, dispatcher: &JobDispatcher) -> CommitterParts {
        CommitterParts {
            ports: self.ports.clone(),
            dispatcher: dispatcher.clone(),
            job_notifier: self.job_notifier.clone(),
            failures: Failures::default(),
        }
    }

    fn lifecycle(&self, committer: &Committer, providers: crate::app::Providers) -> WorkerLifecycleManager {
        WorkerLifecycleManager {
            ports: self.ports.clone(),
            committer: committer.clone(),
            providers,
            streams: self.streams.clone(),
            log_notifier: self.log_notifier.clone(),
            authorizer: self.authorizer.clone(),
        }
    }

    fn gateway(
        &self,
        committer: &Committer,
        dispatcher: &JobDispatcher,
        lifecycle: &WorkerLifecycleManager,
    ) -> WorkerGateway {
        let parts = IntakeParts {
            ports: self.ports.clone(),
            committer: committer.clone(),
            streams: self.streams.clone(),
            dispatcher: dispatcher.clone(),
            authorizer: self.authorizer.clone(),
        };
        let results = ResultIntake::start(&self.ports.tasks, parts);
        let persister = LogPersister {
            ports: self.ports.clone(),
            results: results.clone(),
            lifecycle: lifecycle.clone(),
            streams: self.streams.clone(),
            dispatcher: dispatcher.clone(),
            authorizer: self.authorizer.clone(),
            log_notifier: self.log_notifier.clone(),
            tails: TailBudget::default(),
        };
        WorkerGateway {
            ports: self.ports.clone(),
            streams: self.streams.clone(),
            membership: self.membership.clone(),
            dispatcher: dispatcher.clone(),
            results,
            persister,
            lifecycle: lifecycle.clone(),
            artifacts: self.artifacts.clone(),
            #[cfg(feature = "grpc")]
            issued: Arc::default(),
        }
    }

    fn preparer(&self, gateway: &WorkerGateway) -> AssignmentPreparer {
        AssignmentPreparer {
            ports: self.ports.clone(),
            secrets: self.secrets.clone(),
            streams: self.streams.clone(),
            results: gateway.results.clone(),
        }
    }

    fn remote_dispatch(&self, dispatcher: &JobDispatcher) -> RemoteDispatch {
        RemoteDispatch {
            ports: self.ports.clone(),
            streams: self.streams.clone(),
            membership: self.membership.clone(),
            dispatcher: dispatcher.clone(),
            job_notifier: self.job_notifier.clone(),
            log_notifier: self.log_notifier.clone(),
        }
    }

    fn leader(
        &self,
        committer: &Committer,
        dispatcher: JobDispatcher,
        lifecycle: WorkerLifecycleManager,
        scheduler: PlanSource,
        draining: CancellationToken,
    ) -> Leadership {
        let health = HealthMonitor {
            ports: self.ports.clone(),
            lifecycle: lifecycle.clone(),
            membership: self.membership.clone(),
            streams: self.streams.clone(),
        };
        let (artifacts, started) = (self.artifacts.artifacts.clone(), self.ports.clock.now());
        let retention = RetentionService { ports: self.ports.clone(), artifacts, started };
        let parts = CoordinatorParts {
            ports: self.ports.clone(),
            committer: committer.clone(),
            dispatcher,
            lifecycle,
            streams: self.streams.clone(),
            membership: self.membership.clone(),
            draining,
        };
        Leadership { membership: self.membership.clone(), parts, scheduler, health, retention }
    }

    fn jobs(&self, committer: &Committer) -> JobController {
        let create = CreateJobUseCase {
            ports: self.ports.clone(),
            committer: committer.clone(),
            known: Arc::default(),
            secrets: self.secrets.clone(),
            artifacts: self.artifacts.clone(),
        };
        let cancel = CancelJobUseCase {
            ports: self.ports.clone(),
            committer: committer.clone(),
            authorizer: self.authorizer.clone(),
            streams: self.streams.clone(),
        };
        JobController {
            ports: self.ports.clone(),
            create,
            cancel,
            queries: JobQueries { ports: self.ports.clone(), job_notifier: self.job_notifier.clone() },
            queue: QueueQueries { ports: self.ports.clone(), membership: self.membership.clone() },
            authorizer: self.authorizer.clone(),
            log_notifier: self.log_notifier.clone(),
            closed: AtomicBool::new(false),
        }
    }
}

/// The worker door that providers get before the gateway exists. It holds a weak reference: the gateway owns the
/// providers, so a strong one would be a cycle that keeps the store open.
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

    async fn fetch(
        &self,
        worker: WorkerId,
        request: v1::FetchRequest,
    ) -> Result<ArtifactParts, TransferError> {
        self.gateway()?.fetch(worker, request).await
    }

    async fn store(
        &self,
        worker: WorkerId,
        requests: mpsc::Receiver<v1::StoreRequest>,
    ) -> Result<(), TransferError> {
        self.gateway()?.store(worker, requests).await
    }

    async fn issue_token(&self, worker: WorkerId) -> Result<String, hodei_agent::ConnectError> {
        self.gateway()?.issue_token(worker).await
    }
}
