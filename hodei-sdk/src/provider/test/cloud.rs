//! A simulated cloud with faulty workers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hodei_agent::{
    Agent, AgentConfig, ArtifactChannel, ArtifactParts, ConnectError, Connection, Connector, TransferError,
};
use hodei_core::id::{AttemptId, OrderId, StoreId, WorkerId};
use hodei_core::job::Labels;
use hodei_core::port::{Clock, ClockExt, IdGenerator, ProvidedWorker, ProviderError};
use hodei_core::provider::ProviderProfile;
use hodei_core::secret::SecretPattern;
use hodei_core::worker::{Lifetime, WorkerCapacity, WorkerOrder};
use hodei_proto::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::executor::{ScriptedExecutor, Starts};
use super::liar::lie;
use super::wire::Wire;
use crate::link::WorkerDoor;
use crate::task::Tasks;

/// A simulated cloud. Clones share it.
#[derive(Clone)]
pub struct TestCloud {
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGenerator>,
    profile: ProviderProfile,
    faults: Arc<dyn Fn(u32) -> WorkerFault + Send + Sync>,
    starts: Starts,
    state: Arc<Mutex<State>>,
    tasks: Tasks,
    wire: Wire,
}

impl fmt::Debug for TestCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCloud").field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// Fault of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerFault {
    /// No fault.
    None,
    /// It starts late, after this long.
    Slow(Duration),
    /// Its provider refuses it permanently.
    Refused,
    /// It is created, but its provider reports that it does not know.
    SaysFailed,
    /// It is created but never connects.
    Absent,
    /// It dies after this long, with its jobs, and its provider knows.
    Dies(Duration),
    /// After this long it is cut off from the network, while its jobs continue.
    Vanishes(Duration),
    /// A second agent claims to be the same worker.
    Twice,
    /// It reports results and output of attempts that it does not have.
    Lies,
}

#[derive(Debug, Default)]
struct State {
    door: Option<Arc<dyn WorkerDoor>>,
    workers: BTreeMap<WorkerId, Instance>,
    created: u32,
}

#[derive(Debug, Clone)]
struct Instance {
    order: OrderId,
    owner: StoreId,
    kill: CancellationToken,
    gone: CancellationToken,
    exited: Option<String>,
}

impl TestCloud {
    /// Creates a cloud on the caller's runtime whose workers have two slots; `faults` gives the fault of the n-th
    /// worker.
    pub fn new(
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdGenerator>,
        faults: impl Fn(u32) -> WorkerFault + Send + Sync + 'static,
    ) -> Self {
        let profile = ProviderProfile {
            name: "test".into(),
            kind: "test".into(),
            runs_images: true,
            capacity: WorkerCapacity { prefetch: 1, ..WorkerCapacity::slots(2) },
            labels: Labels::from([("provider".to_owned(), "test".to_owned())]),
            max_workers: 4,
            lifetime: Lifetime::default(),
            secrets: vec![SecretPattern::any()],
            requires_limits: false,
        };
        let (faults, starts, state) = (Arc::new(faults), Starts::default(), Arc::default());
        let wire = Wire::new(ids.clone(), clock.clone());
        Self { clock, ids, profile, faults, starts, state, tasks: Tasks::new(), wire }
    }

    /// Changes the profile that the cloud offers.
    #[must_use]
    pub fn with_profile(mut self, change: impl FnOnce(&mut ProviderProfile)) -> Self {
        change(&mut self.profile);
        self
    }

    /// Breaks each stream from now on after about this many messages, and drops its messages in flight. `None` stops
    /// that.
    pub fn break_streams(&self, messages: Option<u32>) {
        self.wire.break_after(messages);
    }

    /// Returns how often each attempt was started.
    pub fn starts(&self) -> BTreeMap<AttemptId, u32> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the number of workers ever created.
    pub fn created(&self) -> u32 {
        self.lock().created
    }

    /// Returns the number of living workers.
    pub fn alive(&self) -> usize {
        self.lock().workers.values().filter(|worker| worker.exited.is_none()).count()
    }

    /// Ends all workers and waits for their tasks.
    pub async fn end(&self) {
        self.tasks.shutdown().await;
    }

    pub(super) fn face(&self, door: Arc<dyn WorkerDoor>) {
        self.lock().door = Some(door);
    }

    pub(super) fn profile(&self) -> ProviderProfile {
        self.profile.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn create(&self, order: &WorkerOrder) -> Result<String, ProviderError> {
        let reference = format!("test/{}", order.id);
        if self.lock().workers.contains_key(&order.worker) {
            return Ok(reference);
        }
        let number = {
            let mut state = self.lock();
            state.created += 1;
            state.created
        };
        let fault = (self.faults)(number);
        if fault == WorkerFault::Refused {
            return Err(ProviderError::Refused("scripted".into()));
        }
        let (kill, gone) = (CancellationToken::new(), CancellationToken::new());
        let instance = Instance { order: order.id, owner: order.owner, kill, gone, exited: None };
        self.lock().workers.insert(order.worker, instance.clone());
        self.start(order, fault, instance);
        match fault {
            WorkerFault::SaysFailed => Err(ProviderError::Unknown("scripted".into())),
            _ => Ok(reference),
        }
    }

    fn start(&self, order: &WorkerOrder, fault: WorkerFault, instance: Instance) {
        let (cloud, worker, order) = (self.clone(), order.worker, order.clone());
        self.tasks.spawn_to_end("test worker", async move {
            let stop = cloud.tasks.stop().clone();
            let _ended = instance.gone.clone().drop_guard();
            let life = cloud.live(&order, fault, instance.kill.clone());
            let mut life = Box::pin(life);
            tokio::select! {
                biased;
                () = &mut life => {}
                () = stop.cancelled() => { instance.kill.cancel(); life.await }
            }
            if let Some(instance) = cloud.lock().workers.get_mut(&worker) {
                instance.exited = Some("its agent ended".into());
            }
        });
    }

    async fn live(&self, order: &WorkerOrder, fault: WorkerFault, kill: CancellationToken) {
        let cut = CancellationToken::new();
        match fault {
            WorkerFault::Absent => return kill.cancelled().await,
            WorkerFault::Slow(wait) => self.clock.sleep(wait).await,
            WorkerFault::Lies => {
                let connector = self.connector(order, cut);
                return tokio::select! { biased; () = kill.cancelled() => {}, () = lie(&connector) => {} };
            }
            _ => {}
        }
        let first = self.agent(order, cut.clone()).run(kill.clone());
        let script = async {
            match fault {
                WorkerFault::Dies(after) => {
                    self.clock.sleep(after).await;
                    kill.cancel();
                }
                WorkerFault::Vanishes(after) => {
                    self.clock.sleep(after).await;
                    cut.cancel();
                }
                WorkerFault::Twice => {
                    self.clock.sleep(Duration::from_millis(50)).await;
                    self.agent(order, cut.clone()).run(kill.clone()).await;
                }
                _ => {}
            }
            std::future::pending::<()>().await;
        };
        tokio::select! { biased; _ = first => {}, () = script => {} }
    }

    fn agent(&self, order: &WorkerOrder, cut: CancellationToken) -> Agent {
        let config = AgentConfig {
            slots: order.capacity.slots,
            prefetch: order.capacity.prefetch,
            resources: order.capacity.resources,
            reconnect: Duration::from_millis(50),
            ..AgentConfig::default()
        };
        let executor = ScriptedExecutor { clock: self.clock.clone(), starts: self.starts.clone() };
        let connector = Arc::new(self.connector(order, cut));
        Agent::new(config, connector, Arc::new(executor), self.clock.clone())
    }

    fn connector(&self, order: &WorkerOrder, cut: CancellationToken) -> CloudConnector {
        let incarnation = self.ids.uuid(self.clock.now());
        CloudConnector { cloud: self.clone(), worker: order.worker, incarnation, cut }
    }

    pub(super) async fn destroy(&self, worker: WorkerId) {
        let Some(instance) = self.lock().workers.get(&worker).cloned() else { return };
        instance.kill.cancel();
        let _ = self.clock.timeout(Duration::from_secs(1), instance.gone.cancelled()).await;
        self.lock().workers.remove(&worker);
    }

    /// Returns the started attempts once the worker is gone; `None` while it may live.
    pub(super) fn begun(&self, worker: WorkerId) -> Option<BTreeSet<AttemptId>> {
        let is_gone = !self.lock().workers.contains_key(&worker);
        is_gone.then(|| self.starts().into_keys().collect())
    }

    pub(super) fn list(&self, owner: StoreId) -> Vec<ProvidedWorker> {
        let state = self.lock();
        let mine = state.workers.iter().filter(|(_, instance)| instance.owner == owner);
        mine.map(|(worker, instance)| ProvidedWorker {
            worker: *worker,
            order: instance.order,
            exited: instance.exited.clone(),
        })
        .collect()
    }
}

/// Connects to the platform that the cloud faces, over streams that break.
#[derive(Debug, Clone)]
pub(super) struct CloudConnector {
    cloud: TestCloud,
    worker: WorkerId,
    incarnation: Uuid,
    cut: CancellationToken,
}

impl CloudConnector {
    fn door(&self) -> Result<Arc<dyn WorkerDoor>, ConnectError> {
        if self.cut.is_cancelled() {
            return Err(ConnectError::Unavailable("it vanished".into()));
        }
        let door = self.cloud.lock().door.clone();
        door.ok_or_else(|| ConnectError::Unavailable("there is no platform".into()))
    }
}

#[async_trait::async_trait]
impl ArtifactChannel for CloudConnector {
    async fn fetch(&self, request: v1::FetchRequest) -> Result<ArtifactParts, TransferError> {
        self.door()?.fetch(self.worker, request).await
    }

    async fn store(&self, requests: mpsc::Receiver<v1::StoreRequest>) -> Result<(), TransferError> {
        self.door()?.store(self.worker, requests).await
    }
}

#[async_trait::async_trait]
impl Connector for CloudConnector {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let far = self.door()?.open(self.worker, self.incarnation).await?;
        Ok(self.cloud.wire.lay(&self.cloud.tasks, far, self.cut.clone()))
    }
}
