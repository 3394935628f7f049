//! Several platforms on one store: they share the work, and one takes over the jobs of another that ends.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/output.rs"]
mod output;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hodei_sdk::event::DomainEvent;
use hodei_sdk::id::DaemonId;
use hodei_sdk::job::Labels;
use hodei_sdk::port::{Clock, ClockExt, DaemonBeat, Epoch, JobQueue, LeaseStore, WorkerRegistry};
use hodei_sdk::{
    Hodei, HodeiBuilder, Job, JobHandle, JobSpec, JobSpecBuilder, JobStatus, LocalOptions, LocalProvider,
    MemoryEventBus, MemoryLogStore, MemoryStore, Priority, Settings, SystemClock,
};
use output::output;
use uuid::Uuid;

/// The stores and the bus that the platforms of a test share.
struct Shared {
    store: MemoryStore,
    logs: MemoryLogStore,
    bus: MemoryEventBus,
}

impl Shared {
    fn new() -> Self {
        // A new id, since a platform kills processes that an earlier one of the same store left running.
        static STORES: AtomicU64 = AtomicU64::new(1);
        let id = Uuid::from_u64_pair(std::process::id().into(), STORES.fetch_add(1, Ordering::Relaxed));
        let store = MemoryStore::new(id).shared();
        Self { store, logs: MemoryLogStore::default(), bus: MemoryEventBus::default() }
    }

    /// Returns a builder of a platform whose workers have their own label.
    fn platform(&self, name: &str, settings: Settings) -> HodeiBuilder {
        let options = LocalOptions {
            name: name.to_owned(),
            slots: 2,
            labels: Labels::from([("where".to_owned(), name.to_owned())]),
            ..LocalOptions::default()
        };
        Hodei::builder()
            .store(Arc::new(self.store.clone()))
            .log_store(Arc::new(self.logs.clone()))
            .event_bus(Arc::new(self.bus.clone()))
            .settings(settings)
            .provider(move |context| LocalProvider::new(context, options))
    }
}

fn without_sweeps() -> Settings {
    let mut settings = Settings::quick();
    settings.sweep = None;
    settings
}

fn at(place: &str, script: &str) -> JobSpecBuilder {
    JobSpec::shell(script).constraint(format!("where EQ {place}").parse().unwrap())
}

async fn submit(platform: &Hodei, spec: JobSpecBuilder) -> JobHandle {
    platform.submit(spec.build().unwrap()).await.unwrap()
}

async fn ended(job: &JobHandle) -> Arc<Job> {
    SystemClock::default().timeout(Duration::from_secs(20), job.wait()).await.expect("it ends").unwrap()
}

#[tokio::test]
async fn a_job_runs_on_any_daemon_and_can_be_awaited_on_any_other() {
    let shared = Shared::new();
    // No sweeps: the hints of one must reach the other.
    let one = shared.platform("one", without_sweeps()).start().await.unwrap();
    let two = shared.platform("two", without_sweeps()).start().await.unwrap();
    for (from, place) in [(&one, "two"), (&two, "one"), (&two, "two"), (&one, "one")] {
        let job = submit(from, at(place, "echo from $HODEI_JOB_ID")).await;
        let (end, text) = tokio::join!(ended(&job), output(&job));
        assert_eq!((end.status(), text), (JobStatus::Succeeded, format!("from {}\n", job.id())));
    }
    // A cancel reaches the other daemon as well.
    let job = submit(&one, at("two", "sleep 60")).await;
    let mut states = one.jobs().watch(job.id());
    while states.next().await.unwrap().unwrap().status() != JobStatus::Running {}
    job.cancel().await.unwrap();
    assert_eq!(ended(&job).await.status(), JobStatus::Cancelled);
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test]
async fn a_job_is_recalled_from_a_worker_of_another_daemon() {
    let shared = Shared::new();
    let one = shared.platform("one", without_sweeps()).start().await.unwrap();
    let two = shared.platform("two", without_sweeps()).start().await.unwrap();
    let specs = ["sleep 30", "sleep 30", "true"].map(|script| at("two", script).build().unwrap());
    let jobs: Vec<JobHandle> =
        one.submit_batch(specs.into()).await.unwrap().into_iter().map(Result::unwrap).collect();
    let until = async |status: JobStatus| {
        let clock = SystemClock::default();
        let seen = async {
            while jobs[2].get().await.unwrap().status() != status {
                clock.sleep(Duration::from_millis(20)).await;
            }
        };
        clock.timeout(Duration::from_secs(10), seen).await.expect("it reaches the status");
    };
    until(JobStatus::Assigned).await;
    let high = submit(&one, at("two", "true").priority(Priority::HIGH)).await;
    until(JobStatus::Pending).await;
    assert_eq!(jobs[2].get().await.unwrap().tally().uncharged, 1);
    jobs[0].cancel().await.unwrap();
    let (high, low) = (ended(&high).await, ended(&jobs[2]).await);
    assert!(high.started_at() <= low.started_at());
    jobs[1].cancel().await.unwrap();
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test]
async fn a_job_is_not_rejected_if_the_daemon_has_not_heard_of_a_new_provider() {
    let shared = Shared::new();
    let one = shared.platform("one", without_sweeps()).start().await.unwrap();
    assert_eq!(ended(&submit(&one, at("one", "true")).await).await.status(), JobStatus::Succeeded);
    // Each has its own bus, so neither gets hints of the other.
    let deaf = shared.platform("two", Settings::quick()).event_bus(Arc::new(MemoryEventBus::default()));
    let two = deaf.start().await.unwrap();
    // The daemon refuses the job until it knows the provider.
    let clock = SystemClock::default();
    let taken = async {
        let job = loop {
            match one.submit(at("two", "true").build().unwrap()).await {
                Ok(job) => break job,
                Err(_) => clock.sleep(Duration::from_millis(20)).await,
            }
        };
        while one.workers().list().await.unwrap().len() < 2 {
            clock.sleep(Duration::from_millis(20)).await;
        }
        job
    };
    let job = clock.timeout(Duration::from_secs(20), taken).await.expect("a worker is ordered for it");
    assert_eq!(job.get().await.unwrap().status(), JobStatus::Pending);
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test]
async fn a_daemon_that_leaves_is_replaced_before_its_lease_expires() {
    let shared = Shared::new();
    let mut settings = Settings::quick();
    settings.daemon_lease = Duration::from_secs(10);
    let one = shared.platform("one", settings.clone()).start().await.unwrap();
    let two = shared.platform("two", settings).start().await.unwrap();
    let job = submit(&two, at("two", "sleep 0.5")).await;
    one.shutdown().await;
    let next = submit(&two, at("two", "true")).await;
    let both = async { (ended(&job).await.status(), ended(&next).await.status()) };
    let ends = SystemClock::default().timeout(Duration::from_secs(8), both).await;
    let succeeded = JobStatus::Succeeded;
    assert_eq!(ends.expect("before the lease expires"), (succeeded, succeeded));
    two.shutdown().await;
}

#[tokio::test]
async fn a_daemon_that_dies_is_replaced_after_its_lease() {
    let shared = Shared::new();
    let one = shared.platform("one", Settings::quick()).start().await.unwrap();
    let two = shared.platform("two", Settings::quick()).start().await.unwrap();
    let before = submit(&one, at("two", "sleep 0.3")).await;
    let lost = submit(&two, at("one", "sleep 60")).await;
    let mut states = two.jobs().watch(lost.id());
    while states.next().await.unwrap().unwrap().status() != JobStatus::Running {}
    let id = before.id();
    drop((before, one));
    // The job runs on a worker of the other platform, which sees it end.
    let mut before = two.jobs().watch(id);
    let end = SystemClock::default().timeout(Duration::from_secs(20), before.ended()).await;
    assert_eq!(end.expect("it ends").unwrap().status(), JobStatus::Succeeded);
    let next = submit(&two, at("two", "true")).await;
    assert_eq!(ended(&next).await.status(), JobStatus::Succeeded);
    // The worker died with its platform, so the job waits for a machine with the same label.
    while two.jobs().get(lost.id()).await.unwrap().status() == JobStatus::Running {
        SystemClock::default()
            .timeout(Duration::from_millis(20), std::future::pending::<()>())
            .await
            .unwrap_err();
    }
    two.jobs().cancel(lost.id()).await.unwrap();
    assert_eq!(ended(&lost).await.status(), JobStatus::Cancelled);
    two.shutdown().await;
}

#[tokio::test]
async fn two_daemons_that_both_believe_to_lead_exceed_no_limit() {
    let shared = Shared::new();
    // The first renews its lease too rarely to count as alive, and reads the leases too rarely to notice.
    let mut settings = Settings::quick();
    settings.daemon_lease = Duration::from_secs(600);
    let one = shared.platform("one", settings).start().await.unwrap();
    let first = submit(&one, at("one", "true")).await;
    assert_eq!(ended(&first).await.status(), JobStatus::Succeeded);
    let two = shared.platform("two", Settings::quick()).start().await.unwrap();
    let second = submit(&two, at("two", "true")).await;
    ended(&second).await;
    let own = DaemonBeat {
        daemon: DaemonId::from_uuid(Uuid::from_u128(9)),
        beats: 1,
        url: None,
        streams: Vec::new(),
        queue: None,
    };
    let clock = SystemClock::default();
    while shared.store.beat(&own).await.unwrap().leases[0].epoch < Epoch(2) {
        clock.sleep(Duration::from_millis(20)).await;
    }
    let mut jobs = Vec::new();
    for _ in 0..60 {
        jobs.push(submit(&one, at("two", "sleep 0.02")).await);
        let at_once = shared.store.live_workers().await.unwrap().into_iter().map(|worker| worker.id());
        let assigned = shared.store.jobs_of_workers(&at_once.collect::<Vec<_>>()).await.unwrap();
        assert!(assigned.len() <= 2 * 17, "{} jobs in two slots and their queue", assigned.len());
    }
    for job in &jobs {
        let end = ended(job).await;
        assert_eq!((end.status(), end.attempt()), (JobStatus::Succeeded, 1));
        let history = two.jobs().history(job.id()).await.unwrap();
        let assigned = history.iter().filter_map(|envelope| match &envelope.event {
            DomainEvent::JobAssigned { dispatch, .. } => Some(dispatch >> 32),
            _ => None,
        });
        assert_eq!(assigned.collect::<Vec<_>>(), [2], "assigned once, under the later lease");
    }
    two.shutdown().await;
}
