//! Provider of workers inside this process.

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

/// Provider of workers inside this process: the agent is a task, the jobs are child processes.
///
/// It does not change its host process: it installs no signal handler, is no subreaper and reaps no other children,
/// unless [`LocalOptions::adopts_orphans`] is set.
#[derive(Debug, Clone)]
pub struct LocalProvider {
    context: ProviderContext,
    options: LocalOptions,
    workers: Arc<Mutex<BTreeMap<WorkerId, Running>>>,
    begun: BegunByDead,
    /// Processes of all of its workers.
    children: Children,
    adopts: Arc<Once>,
}

/// Options of a [`LocalProvider`].
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// Name of the provider; `local` by default.
    pub name: String,
    /// Concurrent jobs in one worker; twice the number of cores by default.
    pub slots: u32,
    /// Maximum number of concurrent workers; 1 by default.
    pub max_workers: u32,
    /// Resources that all jobs of a worker may request together; by default the cores and the memory of this machine.
    pub resources: JobResources,
    /// Labels of the workers, besides `os`, `arch` and `provider`.
    pub labels: Labels,
    /// Conditions under which a worker retires.
    pub lifetime: Lifetime,
    /// Secrets that its workers may receive; all by default.
    pub secrets: Vec<SecretPattern>,
    /// Location of its jobs' workspaces.
    pub workspaces: Workspaces,
    /// Also writes the output of its jobs to files; none by default.
    pub file_logger: Option<FileLogger>,
    /// Initial state of its jobs' processes.
    pub start_state: StartState,
    /// Makes this process adopt and end the processes that jobs leave behind. Only for a program that starts no other
    /// processes once jobs run, because each of those would count as left by a job. It finds processes that lost all
    /// marks of their job where control groups cannot be created. The first process of a container adopts other
    /// processes too, so this option has no effect there. False by default.
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

/// Maximum number of jobs that wait in a worker, per slot: `true` takes about 2 ms with all slots busy.
const PREFETCH_PER_SLOT: u32 = 16;

#[derive(Debug, Clone)]
struct Running {
    order: OrderId,
    /// Asks the agent to end its jobs and report that.
    evict: CancellationToken,
    kill: CancellationToken,
    gone: CancellationToken,
}

impl LocalOptions {
    /// Ends the processes that a killed process with these options and this owner left on this machine, and removes
    /// their files. Returns whether all of those processes are gone, which takes a second at most.
    pub async fn end_leftovers(&self, clock: &dyn Clock, owner: StoreId) -> bool {
        if !kill_marked(clock, &Marks::of_owner(owner, &self.name)).await {
            return false;
        }
        let left = Leftovers::of_owner(owner, &self.name, BTreeSet::new());
        clear(clock, left, self.workspaces.dir.clone()).await;
        true
    }

    /// Returns the options with a name that is unique to this machine.
    pub(super) fn of_this_machine(mut self, context: &ProviderContext) -> Self {
        self.labels.entry("provider".into()).or_insert_with(|| self.name.clone());
        self.name = context.local_name(&self.name);
        if let Some(machine) = &context.machine {
            self.labels.insert(MACHINE_LABEL.into(), machine.clone());
        }
        self
    }

    /// Returns the profile of a provider of this kind with workers on this host.
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
            capacity: WorkerCapacity { slots, prefetch: slots * PREFETCH_PER_SLOT, resources },
            labels: own,
            max_workers,
            lifetime,
            secrets,
            requires_limits: false,
        }
    }
}

impl LocalProvider {
    /// Creates a provider for the platform of this context.
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

    /// Returns the path of a worker's journal; `None` when the store ends with this process, because the journal is
    /// never read then.
    fn journal(&self, worker: WorkerId) -> Option<PathBuf> {
        let dir = &self.options.workspaces.dir;
        self.context.is_durable.then(|| self.marks(worker).journal(dir))
    }

    /// Starts adopting orphaned processes, before the first job runs.
    fn adopt(&self) {
        let mut orphans = match Orphanage::open(self.children.clone()) {
            Ok(orphans) => orphans,
            Err(error) => {
                tracing::warn!(%error, "orphaned processes of jobs cannot be adopted; some may keep running");
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
            // The agents are ending, and their jobs with them.
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

/// Removes the journal of a worker without open attempts; it will not be read.
fn remove(journal: Option<PathBuf>) {
    let _ = journal.map(std::fs::remove_file);
}
