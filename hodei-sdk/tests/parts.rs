//! User-supplied components that panic, hang, or make invalid decisions: the platform continues and reports it.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hodei_agent::{Agent, AgentConfig, Executor, Job as Handed, Output, StopSignal};
use hodei_sdk::event::Envelope;
use hodei_sdk::id::{StoreId, WorkerId};
use hodei_sdk::job::{AttemptReport, Outcome};
use hodei_sdk::port::{
    BusError, Clock, ClockExt, Delivery, EventBus, EventSink, FeedCursor, ProvidedWorker, ProviderError,
    SecretError, SecretInfo, SecretProvider, SinkError, SinkPosition, Subscription, WorkerProvider,
};
use hodei_sdk::providers::ProviderProfile;
use hodei_sdk::scheduling::{PlanDecision, Scheduler, SchedulingContext, Score, SmartScheduler};
use hodei_sdk::secret::{SecretName, SecretValue};
use hodei_sdk::testing::{ScriptedJob, TestCloud, TestWorkerProvider, WorkerFault};
use hodei_sdk::time::Timestamp;
use hodei_sdk::worker::WorkerOrder;
use hodei_sdk::{
    DoorConnector, Error, Hodei, HodeiBuilder, JobSpec, JobStatus, MemoryEventBus, ProviderContext, Settings,
    SystemClock, SystemIds,
};

fn cloud() -> TestCloud {
    TestCloud::new(Arc::new(SystemClock::default()), Arc::new(SystemIds::default()), |_| WorkerFault::None)
}

fn over(cloud: &TestCloud) -> HodeiBuilder {
    let cloud = cloud.clone();
    Hodei::builder()
        .settings(Settings::quick())
        .provider(move |context| TestWorkerProvider::new(&context, &cloud))
}

fn scripted(millis: u64) -> hodei_sdk::JobSpecBuilder {
    ScriptedJob { run: Duration::from_millis(millis), ..ScriptedJob::default() }.spec()
}

async fn succeeds(hodei: &Hodei) {
    let job = hodei.submit(scripted(1).build().unwrap()).await.unwrap();
    let ended = within(10, job.wait()).await.unwrap();
    assert_eq!(ended.status(), JobStatus::Succeeded);
}

async fn within<T>(seconds: u64, work: impl Future<Output = T> + Send) -> T {
    SystemClock::default().timeout(Duration::from_secs(seconds), work).await.expect("it takes too long")
}

/// A scheduler that misbehaves on demand.
#[derive(Debug)]
struct Moody {
    inner: SmartScheduler,
    bad: AtomicBool,
    mood: Mood,
    calls: AtomicU32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Panics,
    Hangs,
    /// Assigns every job to every worker, twice.
    Greedy,
}

impl Moody {
    fn new(mood: Mood) -> Arc<Self> {
        let (inner, calls) = (SmartScheduler::default(), AtomicU32::new(0));
        Arc::new(Self { inner, bad: AtomicBool::new(true), mood, calls })
    }
}

impl Scheduler for Moody {
    fn plan(&self, context: &SchedulingContext, now: Timestamp) -> Vec<PlanDecision> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut plan = self.inner.plan(context, now);
        if !self.bad.load(Ordering::Relaxed) {
            return plan;
        }
        match self.mood {
            Mood::Panics => panic!("a mistake of the planner"),
            Mood::Hangs => loop {
                std::thread::sleep(Duration::from_millis(5));
                if !self.bad.load(Ordering::Relaxed) {
                    return plan;
                }
            },
            Mood::Greedy => {
                plan.retain(|line| matches!(line, PlanDecision::Provision { .. }));
                for _ in 0..2 {
                    for (_, keys) in context.queued() {
                        for (key, info) in
                            keys.iter().flat_map(|key| context.workers().map(move |info| (key, info)))
                        {
                            let (worker, score) = (info.worker.id(), Score::default());
                            plan.push(PlanDecision::Assign { job: key.job, worker, score });
                        }
                    }
                }
                plan
            }
        }
    }
}

/// Waits until the queue reports a fault, and returns it.
async fn fault(hodei: &Hodei) -> String {
    within(15, async {
        loop {
            if let Some(fault) = hodei.queue().status().await.unwrap().fault {
                return fault;
            }
            SystemClock::default().sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_panicking_scheduler_plans_nothing_and_the_platform_continues() {
    let scheduler = Moody::new(Mood::Panics);
    let hodei = over(&cloud()).scheduler(scheduler.clone()).start().await.unwrap();
    let job = hodei.submit(scripted(1).build().unwrap()).await.unwrap();
    assert!(fault(&hodei).await.contains("a mistake of the planner"));
    assert_eq!(job.get().await.unwrap().status(), JobStatus::Pending);
    let other = hodei.submit(scripted(1).build().unwrap()).await.unwrap();
    other.cancel().await.unwrap();
    scheduler.bad.store(false, Ordering::Relaxed);
    assert_eq!(within(10, job.wait()).await.unwrap().status(), JobStatus::Succeeded);
    succeeds(&hodei).await;
    assert_eq!(hodei.queue().status().await.unwrap().fault, None);
    hodei.shutdown().await;
}

#[tokio::test]
async fn a_hanging_scheduler_delays_neither_submits_nor_the_shutdown() {
    let scheduler = Moody::new(Mood::Hangs);
    let hodei = over(&cloud()).scheduler(scheduler.clone()).start().await.unwrap();
    let job = hodei.submit(scripted(1).build().unwrap()).await.unwrap();
    assert!(fault(&hodei).await.contains("plans nothing"));
    let calls = scheduler.calls.load(Ordering::Relaxed);
    within(2, job.cancel()).await.unwrap();
    let job = within(2, hodei.submit(scripted(1).build().unwrap())).await.unwrap();
    assert_eq!(scheduler.calls.load(Ordering::Relaxed), calls, "it is not called again while it hangs");
    scheduler.bad.store(false, Ordering::Relaxed);
    assert_eq!(within(15, job.wait()).await.unwrap().status(), JobStatus::Succeeded);
    scheduler.bad.store(true, Ordering::Relaxed);
    let _ = hodei.submit(scripted(1).build().unwrap()).await.unwrap();
    within(8, hodei.shutdown()).await;
    scheduler.bad.store(false, Ordering::Relaxed);
}

#[tokio::test]
async fn a_greedy_plan_exceeds_no_limit_and_its_valid_decisions_are_kept() {
    let hodei = over(&cloud()).scheduler(Moody::new(Mood::Greedy)).start().await.unwrap();
    let spec = || scripted(30).concurrency("one", 1).build().unwrap();
    let jobs = hodei.submit_batch((0..8).map(|_| spec()).collect()).await.unwrap();
    let mut runs = Vec::new();
    for job in jobs {
        let ended = within(20, job.unwrap().wait()).await.unwrap();
        assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
        let run = ended.ending().unwrap().run.clone().unwrap();
        runs.push((run.started_at.unwrap(), run.finished_at));
    }
    runs.sort_unstable();
    assert!(runs.windows(2).all(|pair| pair[0].1 <= pair[1].0), "two jobs of one key ran at once: {runs:?}");
    hodei.shutdown().await;
}

/// A provider that panics in its first create, in every second list, and in every recover and destroy.
#[derive(Debug)]
struct Shaky {
    inner: TestWorkerProvider,
    creates: AtomicU32,
    lists: AtomicU32,
}

#[async_trait]
impl WorkerProvider for Shaky {
    fn profile(&self) -> ProviderProfile {
        self.inner.profile()
    }

    async fn create(&self, order: &WorkerOrder) -> Result<String, ProviderError> {
        assert!(self.creates.fetch_add(1, Ordering::Relaxed) > 0, "a mistake of the provider");
        self.inner.create(order).await
    }

    async fn recover(&self, _: StoreId) -> Result<(), ProviderError> {
        panic!("a mistake at the start")
    }

    async fn destroy(&self, worker: WorkerId, grace: Duration) -> Result<(), ProviderError> {
        let _ = self.inner.destroy(worker, grace).await;
        panic!("a mistake at the end")
    }

    async fn list(&self, owner: StoreId) -> Result<Vec<ProvidedWorker>, ProviderError> {
        if self.lists.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            panic!("a mistake of the list");
        }
        self.inner.list(owner).await
    }
}

#[tokio::test]
async fn a_panicking_provider_is_treated_as_a_failing_one() {
    let cloud = cloud();
    let make = move |context: ProviderContext| {
        let inner = TestWorkerProvider::new(&context, &cloud);
        context.spawn("a task of the provider", |_| async { panic!("a mistake in a task") });
        Shaky { inner, creates: AtomicU32::new(0), lists: AtomicU32::new(0) }
    };
    let hodei = Hodei::builder().settings(Settings::quick()).provider(make).start().await.unwrap();
    succeeds(&hodei).await;
    within(15, hodei.shutdown()).await;
}

/// An in-process bus that misbehaves on demand.
#[derive(Debug)]
struct BadBus {
    inner: MemoryEventBus,
    hangs: bool,
    bad: Arc<AtomicBool>,
    published: AtomicU32,
}

#[derive(Debug)]
struct BadSubscription {
    inner: Box<dyn Subscription>,
    hangs: bool,
    bad: Arc<AtomicBool>,
}

#[async_trait]
impl EventBus for BadBus {
    async fn publish(&self, events: &[Envelope]) -> Result<(), BusError> {
        if !self.bad.load(Ordering::Relaxed) {
            return self.inner.publish(events).await;
        }
        self.published.fetch_add(1, Ordering::Relaxed);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        panic!("a mistake of the bus")
    }

    fn subscribe(&self, channels: &[&'static str]) -> Box<dyn Subscription> {
        let inner = self.inner.subscribe(channels);
        Box::new(BadSubscription { inner, hangs: self.hangs, bad: self.bad.clone() })
    }
}

#[async_trait]
impl Subscription for BadSubscription {
    async fn next(&mut self) -> Delivery {
        let clock = SystemClock::default();
        loop {
            assert!(self.hangs || !self.bad.load(Ordering::Relaxed), "a mistake of a subscription");
            if let Ok(delivery) = clock.timeout(Duration::from_millis(20), self.inner.next()).await {
                return delivery;
            }
        }
    }

    fn try_next(&mut self) -> Option<Delivery> {
        self.inner.try_next()
    }
}

#[tokio::test]
async fn a_panicking_or_hanging_bus_loses_only_hints() {
    for hangs in [false, true] {
        let (inner, bad) = (MemoryEventBus::default(), Arc::new(AtomicBool::new(false)));
        let bus = Arc::new(BadBus { inner, hangs, bad: bad.clone(), published: AtomicU32::new(0) });
        let mut settings = Settings::quick();
        settings.sweep = Some(Duration::from_millis(50));
        // Heartbeats are published on the bus, so a worker must survive its silence.
        settings.lease = Duration::from_secs(10);
        let hodei = over(&cloud()).settings(settings).event_bus(bus.clone()).start().await.unwrap();
        succeeds(&hodei).await;
        bad.store(true, Ordering::Relaxed);
        let job = within(5, hodei.submit(scripted(1).build().unwrap())).await.unwrap();
        assert_eq!(within(15, job.wait()).await.unwrap().status(), JobStatus::Succeeded, "hangs: {hangs}");
        assert!(bus.published.load(Ordering::Relaxed) > 0);
        within(15, hodei.shutdown()).await;
    }
}

#[derive(Debug)]
struct BadSink(AtomicU32);

#[async_trait]
impl EventSink for BadSink {
    async fn position(&self) -> Result<Option<SinkPosition>, SinkError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("a mistake of the sink")
    }

    async fn append(&self, _: &[Envelope], _: &FeedCursor) -> Result<(), SinkError> {
        Ok(())
    }
}

#[derive(Debug)]
struct BadSecrets;

#[async_trait]
impl SecretProvider for BadSecrets {
    async fn secrets(
        &self,
        _: &hodei_sdk::job::TenantId,
        _: &[SecretName],
    ) -> Result<Vec<Option<SecretValue>>, SecretError> {
        panic!("a mistake with secrets")
    }

    async fn list(&self, _: &hodei_sdk::job::TenantId) -> Result<Vec<SecretInfo>, SecretError> {
        panic!("a mistake with names")
    }

    async fn put(
        &self,
        _: &hodei_sdk::job::TenantId,
        _: &SecretName,
        _: SecretValue,
    ) -> Result<(), SecretError> {
        std::future::pending().await
    }

    async fn delete(&self, _: &hodei_sdk::job::TenantId, _: &SecretName) -> Result<bool, SecretError> {
        Ok(false)
    }
}

#[tokio::test]
async fn a_panicking_or_hanging_sink_or_secret_provider_fails_only_its_callers() {
    let sink = Arc::new(BadSink(AtomicU32::new(0)));
    let hodei = over(&cloud()).event_sink(sink.clone()).secrets(Arc::new(BadSecrets)).start().await.unwrap();
    assert!(
        matches!(hodei.secrets().list().await, Err(Error::SecretStore(SecretError::Unavailable(why))) if why.contains("with names"))
    );
    let name: SecretName = "token".parse().unwrap();
    let put = within(12, hodei.secrets().put(&name, SecretValue::new(b"12345678".to_vec()).unwrap())).await;
    assert!(matches!(put, Err(Error::SecretStore(SecretError::Unavailable(_)))), "{put:?}");
    succeeds(&hodei).await;
    assert!(sink.0.load(Ordering::Relaxed) > 0);
    within(10, hodei.shutdown()).await;
}

/// An executor that never ends and ignores the stop.
#[derive(Debug)]
struct Deaf(Arc<dyn Clock>);

#[async_trait]
impl Executor for Deaf {
    async fn run(&self, _: Handed, _: StopSignal, output: Output) -> AttemptReport {
        output.started(self.0.now()).await;
        std::future::pending::<()>().await;
        AttemptReport::unstarted(Outcome::Cancelled, self.0.now())
    }
}

/// A provider whose only worker has this executor.
#[derive(Debug)]
struct OfDeaf {
    context: ProviderContext,
    workers: Mutex<BTreeSet<WorkerId>>,
}

#[async_trait]
impl WorkerProvider for OfDeaf {
    fn profile(&self) -> ProviderProfile {
        TestWorkerProvider::new(&self.context, &cloud()).profile()
    }

    async fn create(&self, order: &WorkerOrder) -> Result<String, ProviderError> {
        if self.workers.lock().unwrap().insert(order.worker) {
            let clock = self.context.clock();
            let incarnation = self.context.ids().uuid(clock.now());
            let connector = Arc::new(DoorConnector::new(self.context.door(), order.worker, incarnation));
            let config = AgentConfig { slots: 2, ..AgentConfig::default() };
            let agent = Agent::new(config, connector, Arc::new(Deaf(clock.clone())), clock);
            self.context.spawn("worker", move |stop| async move {
                agent.run(stop).await;
            });
        }
        Ok("deaf".into())
    }

    async fn destroy(&self, _: WorkerId, _: Duration) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn list(&self, _: StoreId) -> Result<Vec<ProvidedWorker>, ProviderError> {
        Err(ProviderError::Unknown("it does not tell".into()))
    }
}

#[tokio::test]
async fn a_shutdown_returns_although_an_executor_ignores_the_stop() {
    let make = |context| OfDeaf { context, workers: Mutex::default() };
    let mut settings = Settings::quick();
    settings.drain_timeout = Duration::from_secs(1);
    let hodei = Hodei::builder().settings(settings).provider(make).start().await.unwrap();
    let job = hodei.submit(JobSpec::command(["x"]).build().unwrap()).await.unwrap();
    while job.get().await.unwrap().status() != JobStatus::Running {
        SystemClock::default().sleep(Duration::from_millis(10)).await;
    }
    // The drain timeout, and the time that an executor has to end.
    within(10, hodei.shutdown()).await;
}
