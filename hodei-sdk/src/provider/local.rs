use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hodei_agent::{
    Agent, AgentConfig, AgentStop, Children, FileLogger, JobExecutor, Leftovers, Marks, Orphanage,
    StartState, Workspaces, holds_limits, kill_marked,
};
use hodei_core::id::{AttemptId, OrderId, StoreId, WorkerId};
use hodei_core::job::{JobResources, Labels};
use hodei_core::port::{Clock, ClockExt, ProvidedWorker, ProviderError, WorkerProvider};
use hodei_core::provider::ProviderProfile;
use hodei_core::secret::SecretPattern;
use hodei_core::worker::{Lifetime, LimitHold, WorkerCapacity, WorkerOrder};
use tokio_util::sync::CancellationToken;

use super::begun::BegunByDead;
use super::leftovers::clear;
use super::{MACHINE_LABEL, ProviderContext};
use crate::link::DoorConnector;

/// Workers inside this process: the agent is a task here, the jobs are child processes.
///
/// It leaves its host alone: no signal handler, no subreaper, no reaping of children that are not its own, unless
/// [`LocalOptions::adopts_orphans`] says so.
#[derive(Debug, Clone)]
pub struct LocalProvider {
    context: ProviderContext,
    options: LocalOptions,
    workers: Arc<Mutex<BTreeMap<WorkerId, Running>>>,
    begun: BegunByDead,
    /// The processes of all its workers.
    children: Children,
    adopts: Arc<Once>,
}

/// How a [`LocalProvider`] is set up.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// Its name; `local` by default.
    pub name: String,
    /// Jobs at once in one worker; twice the number of cores by default.
    pub slots: u32,
    /// Workers at once; 1 by default.
    pub max_workers: u32,
    /// What jobs may ask for together; by default the cores and the memory of this machine.
    pub resources: JobResources,
    /// Labels of the workers, beside `os`, `arch` and `provider`.
    pub labels: Labels,
    /// When a worker leaves.
    pub lifetime: Lifetime,
    /// The secrets that its workers may be given; all by default.
    pub secrets: Vec<SecretPattern>,
    /// Where its jobs have their workspaces.
    pub workspaces: Workspaces,
    /// Writes the output of its jobs to files too; none by default.
    pub file_logger: Option<FileLogger>,
    /// What the processes of its jobs begin with.
    pub start_state: StartState,
    /// Whether this process becomes the parent of all that its jobs leave behind, and ends that: for a program that starts
    /// no other processes once jobs run, as any other that starts is taken for one that a job left. It finds processes that
    /// lost every mark of their job where no control groups can be made. The first process of a container adopts those of
    /// others too, and is left as it is. False by default.
    pub adopts_orphans: bool,
}

impl Default for LocalOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        let memory = rustix::system::sysinfo();
        let memory_bytes = (memory.totalram as u64).saturating_mul(u64::from(memory.mem_unit));
        Self {
            name: "local".into(),
            slots: cores * 2,
            max_workers: 1,
            resources: JobResources { cpu_millis: cores * 1000, memory_bytes, ..JobResources::default() },
            labels: Labels::new(),
            lifetime: Lifetime::default(),
            secrets: vec![SecretPattern::any()],
            workspaces: Workspaces::default(),
            file_logger: None,
            start_state: StartState::default(),
            adopts_orphans: false,
        }
    }
}

/// Jobs that may wait in a worker, for each of its slots, at most: `true` takes about 2 ms with all slots busy.
const PREFETCH: u32 = 16;

#[derive(Debug, Clone)]
struct Running {
    order: OrderId,
    /// Its agent ends its jobs and says so.
    evict: CancellationToken,
    kill: CancellationToken,
    gone: CancellationToken,
}

impl LocalOptions {
    /// Ends what jobs of a process left on this machine that was killed, and removes their files: all that workers with
    /// these options have of this owner. Returns whether no process of them is left, which takes a second at most.
    pub async fn end_leftovers(&self, clock: &dyn Clock, owner: StoreId) -> bool {
        if !kill_marked(clock, &Marks::of_owner(owner, &self.name)).await {
            return false;
        }
        let left = Leftovers::of_owner(owner, &self.name, BTreeSet::new());
        clear(clock, left, self.workspaces.dir.clone()).await;
        true
    }

    /// The same, under a name that no other machine has.
    pub(super) fn of_this_machine(mut self, context: &ProviderContext) -> Self {
        self.labels.entry("provider".into()).or_insert_with(|| self.name.clone());
        self.name = context.local_name(&self.name);
        if let Some(machine) = &context.machine {
            self.labels.insert(MACHINE_LABEL.into(), machine.clone());
        }
        self
    }

    /// What a provider of this kind offers with them: workers on this host.
    pub(super) fn profile(&self, kind: &str) -> ProviderProfile {
        let Self { name, slots, max_workers, resources, labels, lifetime, secrets, .. } = self.clone();
        let mut own = Labels::new();
        own.insert("os".into(), std::env::consts::OS.into());
        own.insert("arch".into(), std::env::consts::ARCH.into());
        own.insert("provider".into(), name.clone());
        own.extend(labels);
        own.extend([LimitHold::from(holds_limits()).label()]);
        ProviderProfile {
            name,
            kind: kind.into(),
            runs_images: false,
            capacity: WorkerCapacity { slots, prefetch: slots * PREFETCH, resources },
            labels: own,
            max_workers,
            lifetime,
            secrets,
            requires_limits: false,
        }
    }
}

impl LocalProvider {
    /// A provider for the platform of this context.
    pub fn new(context: ProviderContext, options: LocalOptions) -> Self {
        let options = options.of_this_machine(&context);
        Self {
            context,
            options,
            workers: Arc::default(),
            begun: BegunByDead::default(),
            children: Children::default(),
            adopts: Arc::new(Once::new()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Running>> {
        lock(&self.workers)
    }

    fn marks(&self, worker: WorkerId) -> Marks {
        Marks::new(self.context.owner, &self.options.name, worker)
    }

    /// Where the store outlives this process: else nobody is left to ask.
    fn journal(&self, worker: WorkerId) -> Option<PathBuf> {
        let dir = &self.options.workspaces.dir;
        self.context.is_durable.then(|| self.marks(worker).journal(dir))
    }

    /// Adopts what jobs leave behind, before the first of them runs.
    fn adopt(&self) {
        let mut orphans = match Orphanage::open(self.children.clone()) {
            Ok(orphans) => orphans,
            Err(error) => {
                tracing::warn!(%error, "what jobs leave behind cannot be adopted: some of it may live on");
                return;
            }
        };
        let (clock, workers) = (self.context.clock(), self.workers.clone());
        self.context.spawn("orphans", move |stop| async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = orphans.run(&*clock) => {}
            }
            // Their agents end now, and their jobs with them.
            let running: Vec<Running> = lock(&workers).values().cloned().collect();
            for worker in running {
                worker.gone.cancelled().await;
            }
            orphans.close(&*clock).await;
        });
    }

    fn agent(&self, order: &WorkerOrder) -> Agent {
        let clock = self.context.clock();
        let incarnation = self.context.ids.uuid(clock.now());
        let connector = DoorConnector::new(self.context.door(), order.worker, incarnation);
        let executor = JobExecutor::new(clock.clone(), self.marks(order.worker));
        let executor = executor.with_children(self.children.clone());
        let executor = executor.with_workspaces(self.options.workspaces.clone());
        let executor = executor.with_start_state(self.options.start_state.clone());
        let executor = match &self.options.file_logger {
            Some(logger) => executor.with_file_logger(logger.clone()),
            None => executor,
        };
        let config = AgentConfig {
            slots: order.capacity.slots,
            prefetch: order.capacity.prefetch,
            resources: order.capacity.resources,
            labels: Labels::from([LimitHold::from(executor.holds_limits()).label()]),
            metrics: true,
            journal: self.journal(order.worker),
            ..AgentConfig::default()
        };
        Agent::new(config, Arc::new(connector), Arc::new(executor), clock)
    }
}

#[async_trait]
impl WorkerProvider for LocalProvider {
    fn profile(&self) -> ProviderProfile {
        self.options.profile("local")
    }

    async fn create(&self, order: &WorkerOrder) -> Result<String, ProviderError> {
        let reference = format!("local/{}", order.id);
        if self.options.adopts_orphans && !rustix::process::getpid().is_init() {
            self.adopts.call_once(|| self.adopt());
        }
        let running = {
            let mut workers = self.lock();
            if workers.contains_key(&order.worker) {
                return Ok(reference);
            }
            let new = CancellationToken::new;
            let running = Running { order: order.id, evict: new(), kill: new(), gone: new() };
            workers.insert(order.worker, running.clone());
            running
        };
        let (agent, workers, worker) = (self.agent(order), self.workers.clone(), order.worker);
        let journal = self.journal(worker);
        self.context.spawn("agent", move |stop| async move {
            let killed = running.kill.clone();
            let ended = running.gone.drop_guard();
            let kill = CancellationToken::new();
            let told = AgentStop { evict: running.evict, kill: kill.clone(), ..AgentStop::default() };
            let mut run = Box::pin(agent.run(told));
            tokio::select! {
                biased;
                _ = &mut run => remove(journal),
                () = stop.cancelled() => { kill.cancel(); run.await; remove(journal); }
                () = killed.cancelled() => { kill.cancel(); run.await; }
            }
            lock(&workers).remove(&worker);
            drop(ended);
        });
        Ok(reference)
    }

    async fn recover(&self, owner: StoreId) -> Result<(), ProviderError> {
        let workspaces = self.options.workspaces.dir.clone();
        self.begun.read_all(owner, &self.options.name, &workspaces, BTreeSet::new()).await;
        if self.options.end_leftovers(&*self.context.clock, owner).await {
            Ok(())
        } else {
            Err(ProviderError::Unknown("processes of an earlier start are still alive".into()))
        }
    }

    async fn evict(&self, worker: WorkerId) -> Result<(), ProviderError> {
        if let Some(running) = self.lock().get(&worker) {
            running.evict.cancel();
        }
        Ok(())
    }

    async fn destroy(&self, worker: WorkerId, grace: Duration) -> Result<(), ProviderError> {
        let running = self.lock().get(&worker).cloned();
        if let Some(running) = running {
            running.kill.cancel();
            let limit = grace + Duration::from_secs(2);
            let _ = self.context.clock.timeout(limit, running.gone.cancelled()).await;
        }
        let marks = self.marks(worker);
        if kill_marked(&*self.context.clock, &marks.of_worker()).await {
            let workspaces = self.options.workspaces.dir.clone();
            self.begun.read(worker, &marks, &workspaces).await;
            clear(&*self.context.clock, Leftovers::of_worker(&marks), workspaces).await;
            Ok(())
        } else {
            Err(ProviderError::Unknown("processes of its jobs are still alive".into()))
        }
    }

    async fn begun(&self, worker: WorkerId) -> Result<Option<BTreeSet<AttemptId>>, ProviderError> {
        Ok(self.begun.of(worker))
    }

    async fn list(&self, owner: StoreId) -> Result<Vec<ProvidedWorker>, ProviderError> {
        if owner != self.context.owner {
            return Ok(Vec::new());
        }
        let there = |(worker, running): (&WorkerId, &Running)| ProvidedWorker {
            worker: *worker,
            order: running.order,
            exited: None,
        };
        Ok(self.lock().iter().map(there).collect())
    }
}

fn lock(workers: &Mutex<BTreeMap<WorkerId, Running>>) -> MutexGuard<'_, BTreeMap<WorkerId, Running>> {
    workers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nothing of the worker is open: nobody asks for its journal.
fn remove(journal: Option<PathBuf>) {
    let _ = journal.map(std::fs::remove_file);
}
