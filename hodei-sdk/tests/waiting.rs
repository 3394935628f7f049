//! Queues of jobs: the workers that they wait for, their order, and the duration of waits when the clock is set.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/served.rs"]
mod served;

use std::sync::Arc;
use std::time::Duration;

use hodei_sdk::id::JobId;
use hodei_sdk::port::{Clock, IdGenerator, JobFilter};
use hodei_sdk::testing::{ScriptedJob, TestCloud, TestWorkerProvider, WorkerFault};
use hodei_sdk::worker::{Lifetime, WorkerStatus};
use hodei_sdk::{
    Backoff, Hodei, HodeiBuilder, JobHandle, JobSpec, JobSpecBuilder, JobStatus, LocalOptions, LocalProvider,
    ManualClock, MemoryLogStore, MemoryStore, Priority, RetryPolicy, Settings, SystemIds,
};
use served::{Served, within};

/// Amount by which the clock is set.
const TWO_HOURS: Duration = Duration::from_secs(2 * 3600);

/// A platform over scripted workers with one slot, on a clock that the test controls.
struct Stage {
    clock: Arc<ManualClock>,
    cloud: TestCloud,
    store: Arc<MemoryStore>,
}

impl Stage {
    fn new(max_workers: u32, faults: impl Fn(u32) -> WorkerFault + Send + Sync + 'static) -> Self {
        let (clock, ids) = (Arc::new(ManualClock::default()), Arc::new(SystemIds::default()));
        let store = Arc::new(MemoryStore::new(ids.uuid(clock.now())));
        let cloud = TestCloud::new(clock.clone(), ids, faults).with_profile(|profile| {
            profile.max_workers = max_workers;
            profile.capacity.slots = 1;
        });
        Self { clock, cloud, store }
    }

    fn builder(&self) -> HodeiBuilder {
        let cloud = self.cloud.clone();
        Hodei::builder()
            .settings(Settings::quick())
            .clock(self.clock.clone())
            .store(self.store.clone())
            .log_store(Arc::new(MemoryLogStore::default()))
            .provider(move |context| TestWorkerProvider::new(&context, &cloud))
    }

    async fn start(&self) -> Hodei {
        self.builder().start().await.unwrap()
    }

    /// Advances the clock in small steps.
    async fn pass(&self, millis: u64) {
        for _ in 0..millis / 10 {
            self.clock.advance(Duration::from_millis(10));
            settle().await;
        }
    }

    /// Advances the clock until a job has this status. Returns the elapsed milliseconds, at most `limit`.
    async fn until(&self, job: &JobHandle, status: JobStatus, limit: u64) -> u64 {
        for passed in 0..limit / 10 {
            if job.get().await.unwrap().status() == status {
                return passed * 10;
            }
            self.pass(10).await;
        }
        limit
    }
}

async fn settle() {
    for _ in 0..60 {
        tokio::task::yield_now().await;
    }
}

fn runs(millis: u64) -> JobSpecBuilder {
    ScriptedJob { run: Duration::from_millis(millis), ..ScriptedJob::default() }.spec()
}

async fn submit(hodei: &Hodei, spec: JobSpecBuilder) -> JobHandle {
    hodei.submit(spec.build().unwrap()).await.unwrap()
}

async fn status(job: &JobHandle) -> JobStatus {
    job.get().await.unwrap().status()
}

#[tokio::test]
async fn a_short_job_gets_a_second_worker_instead_of_waiting_behind_a_long_one() {
    let slow =
        |number| if number == 2 { WorkerFault::Slow(Duration::from_millis(500)) } else { WorkerFault::None };
    let stage = Stage::new(2, slow);
    let hodei = stage.start().await;
    let long = submit(&hodei, runs(40_000)).await;
    stage.pass(1500).await;
    let short = submit(&hodei, runs(1)).await;
    assert!(stage.until(&short, JobStatus::Succeeded, 3000).await < 1000, "{:?}", short.get().await.unwrap());
    assert_eq!(short.get().await.unwrap().attempt(), 1);
    assert_eq!(status(&long).await, JobStatus::Running);
}

#[tokio::test]
async fn a_job_that_waits_in_a_worker_is_recalled_when_another_may_be_ordered() {
    // The second order is refused, so the first is the only worker for five seconds.
    let refused = |number| if number == 2 { WorkerFault::Refused } else { WorkerFault::None };
    let stage = Stage::new(2, refused);
    let mut settings = Settings::quick();
    settings.sweep = None;
    let hodei = stage.builder().settings(settings).start().await.unwrap();
    let long = submit(&hodei, runs(60_000)).await;
    let short = submit(&hodei, runs(1)).await;
    stage.pass(2000).await;
    assert_eq!(status(&short).await, JobStatus::Assigned, "it waits in the worker of the long one");
    let placed = hodei.jobs().explain(short.id()).await.unwrap().behind.unwrap();
    assert_eq!((placed.is_next, placed.job, placed.others), (true, Some(long.id()), 0));
    assert!(stage.until(&short, JobStatus::Succeeded, 10_000).await < 5000);
    let ended = short.get().await.unwrap();
    assert_eq!((ended.attempt(), ended.tally().uncharged), (2, 1), "given back once, without a charge");
    assert!(stage.cloud.starts().values().all(|starts| *starts == 1));
    assert_eq!(status(&long).await, JobStatus::Running);
}

#[tokio::test]
async fn a_job_of_higher_priority_starts_before_one_that_waits_in_a_worker() {
    let stage = Stage::new(1, |_| WorkerFault::None);
    let hodei = stage.start().await;
    let first = submit(&hodei, runs(3000)).await;
    let low = submit(&hodei, runs(3000)).await;
    stage.pass(1000).await;
    assert_eq!(status(&low).await, JobStatus::Assigned);
    let high = submit(&hodei, runs(10).priority(Priority::HIGH)).await;
    assert!(stage.until(&high, JobStatus::Succeeded, 10_000).await < 2500, "as soon as the first has ended");
    assert_eq!(status(&first).await, JobStatus::Succeeded);
    assert!(stage.until(&low, JobStatus::Succeeded, 10_000).await < 4000);
    assert_eq!(low.get().await.unwrap().tally().uncharged, 1);
}

#[tokio::test]
async fn recalls_over_breaking_streams_start_no_job_twice() {
    let refused = |number| if (2..4).contains(&number) { WorkerFault::Refused } else { WorkerFault::None };
    let stage = Stage::new(4, refused);
    let hodei = stage.start().await;
    stage.cloud.break_streams(Some(5));
    let mut jobs = Vec::new();
    for number in 0..40 {
        jobs.push(submit(&hodei, runs(20 + number * 37 % 900)).await);
    }
    stage.pass(10_000).await;
    stage.cloud.break_streams(None);
    for job in &jobs {
        stage.until(job, JobStatus::Succeeded, 60_000).await;
        assert_eq!(status(job).await, JobStatus::Succeeded);
    }
    assert!(stage.cloud.starts().values().all(|starts| *starts == 1));
}

#[tokio::test]
async fn jobs_submitted_after_the_clock_is_set_back_wait_behind_earlier_ones() {
    let stage = Stage::new(1, |_| WorkerFault::None);
    let hodei = stage.start().await;
    submit(&hodei, runs(2000)).await;
    stage.pass(500).await;
    let mut jobs = vec![submit(&hodei, runs(20)).await, submit(&hodei, runs(20)).await];
    stage.pass(100).await;
    stage.clock.set_back(TWO_HOURS);
    jobs.push(submit(&hodei, runs(20)).await);
    stage.pass(100).await;
    jobs.push(submit(&hodei, runs(20)).await);
    for (number, job) in jobs.iter().enumerate() {
        stage.until(job, JobStatus::Succeeded, 5000).await;
        assert_eq!(status(job).await, JobStatus::Succeeded);
        for later in &jobs[number + 1..] {
            assert_ne!(status(later).await, JobStatus::Succeeded, "{number} is first");
        }
    }
}

/// Returns the ids of jobs in the order of their starts.
async fn by_start(jobs: &[JobHandle]) -> Vec<JobId> {
    let mut started = Vec::new();
    for job in jobs {
        started.push((within(job.wait()).await.unwrap().started_at().unwrap(), job.id()));
    }
    // The order of two starts in one microsecond is unknown.
    started.sort_by_key(|(at, _)| *at);
    started.into_iter().map(|(_, id)| id).collect()
}

fn one_slot(settings: Settings) -> HodeiBuilder {
    let options = LocalOptions { slots: 1, ..LocalOptions::default() };
    Hodei::builder().settings(settings).provider(move |context| LocalProvider::new(context, options))
}

fn batch(of: usize) -> Vec<(Option<JobId>, JobSpec)> {
    (0..of).map(|_| (None, JobSpec::command(["true"]).build().unwrap())).collect()
}

async fn batch_keeps_its_order(hodei: &Hodei) {
    let answers = hodei.submit_many(batch(60)).await.unwrap();
    let jobs: Vec<JobHandle> = answers.into_iter().map(Result::unwrap).collect();
    let ids: Vec<JobId> = jobs.iter().map(JobHandle::id).collect();
    assert_eq!(by_start(&jobs).await, ids, "they start in the order of the batch");
    let mut listed = Vec::new();
    let mut filter = JobFilter { limit: 25, ..JobFilter::default() };
    loop {
        let page = hodei.jobs().list(filter.clone()).await.unwrap();
        listed.extend(page.jobs.iter().map(|job| job.id()));
        filter.after = page.next;
        if filter.after.is_none() {
            break;
        }
    }
    listed.retain(|id| ids.contains(id));
    listed.reverse();
    assert_eq!(listed, ids, "they are listed in this order, the last first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_keeps_its_order_on_every_store_and_through_a_daemon() {
    let hodei = one_slot(Settings::quick()).start().await.unwrap();
    batch_keeps_its_order(&hodei).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = Served::of(listener, hodei);
    batch_keeps_its_order(&served.connect().await).await;
    served.end().await;

    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().display());
    let hodei = one_slot(Settings::quick()).url(url).start().await.unwrap();
    batch_keeps_its_order(&hodei).await;
    hodei.shutdown().await;

    let Some(server) = postgres::server() else { return };
    let hodei = one_slot(Settings::quick()).url(server.database().await).start().await.unwrap();
    batch_keeps_its_order(&hodei).await;
    hodei.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_batches_each_keep_their_order() {
    let hodei = one_slot(Settings::quick()).start().await.unwrap();
    let blocker = submit(&hodei, JobSpec::command(["sleep", "0.3"])).await;
    let (one, two, three) = tokio::join!(
        hodei.submit_many(batch(50)),
        hodei.submit_many(batch(50)),
        hodei.submit_many(batch(50))
    );
    within(blocker.wait()).await.unwrap();
    for answers in [one, two, three] {
        let jobs: Vec<JobHandle> = answers.unwrap().into_iter().map(Result::unwrap).collect();
        let ids: Vec<JobId> = jobs.iter().map(JobHandle::id).collect();
        assert_eq!(by_start(&jobs).await, ids);
    }
    hodei.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_chosen_by_a_caller_do_not_decide_the_order_of_starts() {
    let hodei = one_slot(Settings::quick()).start().await.unwrap();
    let ids = SystemIds::default();
    let now = hodei_sdk::SystemClock::default().now();
    let mut own: Vec<JobId> = (0..40).map(|_| JobId::from_uuid(ids.uuid(now))).collect();
    own.reverse();
    let jobs = own.iter().zip(batch(40)).map(|(id, (_, spec))| (Some(*id), spec)).collect();
    let jobs: Vec<JobHandle> =
        hodei.submit_many(jobs).await.unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(by_start(&jobs).await, own, "they start in the order of the batch");
    hodei.shutdown().await;
}

fn fails_once() -> JobSpecBuilder {
    let backoff = Backoff { initial: Duration::from_secs(8), max: Duration::from_secs(8) };
    let retry = RetryPolicy { max: 1, backoff, ..RetryPolicy::default() };
    ScriptedJob { failures: 1, ..ScriptedJob::default() }.spec().retry(retry)
}

#[tokio::test]
async fn a_backoff_is_no_longer_when_the_clock_is_set_back() {
    let stage = Stage::new(1, |_| WorkerFault::None);
    let hodei = stage.start().await;
    let job = submit(&hodei, fails_once()).await;
    stage.until(&job, JobStatus::Created, 1000).await;
    stage.pass(1000).await;
    stage.clock.set_back(TWO_HOURS);
    let took = stage.until(&job, JobStatus::Succeeded, 20_000).await;
    assert!((2500..7500).contains(&took), "{took} ms of a backoff of at most 8 s, of which 1 s had passed");
}

#[tokio::test]
async fn a_backoff_is_bounded_by_its_own_length_after_a_restart_on_a_clock_set_back() {
    let stage = Stage::new(1, |_| WorkerFault::None);
    let hodei = stage.start().await;
    let job = submit(&hodei, fails_once()).await;
    let later = submit(&hodei, runs(1).not_before(stage.clock.now() + Duration::from_secs(6))).await;
    stage.until(&job, JobStatus::Created, 1000).await;
    let (id, later) = (job.id(), later.id());
    drop((job, hodei));
    stage.clock.set_back(TWO_HOURS);
    stage.pass(100).await;
    let hodei = stage.start().await;
    let took = stage.until(&hodei.job(id), JobStatus::Succeeded, 30_000).await;
    assert!(took <= 9000, "{took} ms");
    assert!(stage.until(&hodei.job(later), JobStatus::Succeeded, 30_000).await <= 6000);
}

#[tokio::test]
async fn a_clock_set_back_does_not_delay_scheduled_times() {
    let stage = Stage::new(1, |_| WorkerFault::Absent);
    let hodei = stage.start().await;
    let now = stage.clock.now();
    let due = submit(&hodei, runs(1).not_before(now + Duration::from_secs(3))).await;
    let expires = submit(&hodei, runs(1).start_by(now + Duration::from_secs(4))).await;
    stage.pass(1000).await;
    stage.clock.set_back(TWO_HOURS);
    assert!(stage.until(&due, JobStatus::Pending, 20_000).await <= 2100);
    assert!(stage.until(&expires, JobStatus::TimedOut, 20_000).await <= 1100);
}

#[tokio::test]
async fn a_clock_set_back_delays_neither_retirement_nor_loss_of_workers() {
    let absent = |number| if number == 2 { WorkerFault::Absent } else { WorkerFault::None };
    let mut stage = Stage::new(1, absent);
    let idle = Lifetime { idle: Some(Duration::from_secs(3)), ..Lifetime::default() };
    stage.cloud = stage.cloud.with_profile(|profile| profile.lifetime = idle);
    let hodei = stage.start().await;
    let job = submit(&hodei, runs(1)).await;
    stage.until(&job, JobStatus::Succeeded, 1000).await;
    stage.clock.set_back(TWO_HOURS);
    stage.pass(4500).await;
    let left = hodei.workers().list().await.unwrap();
    assert!(left.iter().all(|worker| worker.status != WorkerStatus::Ready), "{left:?}");
    let job = submit(&hodei, runs(1)).await;
    stage.pass(500).await;
    stage.clock.set_back(TWO_HOURS);
    assert!(
        stage.until(&job, JobStatus::Succeeded, 60_000).await <= 8000,
        "the absent one is given up in time"
    );
}

#[tokio::test]
async fn a_clock_set_ahead_gives_up_no_starting_worker() {
    let stage = Stage::new(1, |_| WorkerFault::Slow(Duration::from_secs(2)));
    let hodei = stage.start().await;
    let job = submit(&hodei, runs(1)).await;
    stage.pass(500).await;
    stage.clock.set_ahead(TWO_HOURS);
    stage.until(&job, JobStatus::Succeeded, 10_000).await;
    assert_eq!((status(&job).await, stage.cloud.created()), (JobStatus::Succeeded, 1));
}

#[tokio::test]
async fn a_start_on_a_clock_far_ahead_deletes_no_job_for_an_hour() {
    let stage = Stage::new(1, |_| WorkerFault::None);
    let hodei = stage.start().await;
    let old = submit(&hodei, runs(1)).await;
    stage.until(&old, JobStatus::Succeeded, 1000).await;
    let id = old.id();
    drop((old, hodei));
    stage.clock.set_ahead(Duration::from_secs(30 * 24 * 3600));
    stage.pass(100).await;
    let hodei = stage.start().await;
    // A job that is submitted at once does not prove that the clock is right.
    submit(&hodei, runs(1)).await;
    let minutes = async |minutes: u64| {
        for _ in 0..minutes * 6 {
            stage.clock.advance(Duration::from_secs(10));
            settle().await;
        }
    };
    minutes(50).await;
    assert!(hodei.jobs().get(id).await.is_ok());
    minutes(40).await;
    assert!(hodei.jobs().get(id).await.is_err(), "after an hour it is deleted");
}

#[tokio::test]
async fn a_start_after_a_day_deletes_old_jobs_at_once() {
    let stage = Stage::new(1, |_| WorkerFault::None);
    let hodei = stage.start().await;
    let old = submit(&hodei, runs(1)).await;
    stage.until(&old, JobStatus::Succeeded, 1000).await;
    stage.clock.set_ahead(Duration::from_secs(6 * 24 * 3600 + 7200));
    let young = submit(&hodei, runs(1)).await;
    stage.until(&young, JobStatus::Succeeded, 1000).await;
    let (old, young) = (old.id(), young.id());
    drop(hodei);
    stage.clock.set_ahead(Duration::from_secs(24 * 3600));
    stage.pass(100).await;
    let hodei = stage.start().await;
    stage.pass(1000).await;
    assert!(hodei.jobs().get(old).await.is_err());
    assert!(hodei.jobs().get(young).await.is_ok());
}

#[tokio::test]
async fn a_clock_set_back_does_not_extend_a_token() {
    let clock = Arc::new(ManualClock::default());
    let hodei = Hodei::builder().clock(clock.clone()).start().await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = Served::of(listener, hodei);
    let terms = hodei_sdk::access::TokenTerms {
        name: "t".into(),
        tenant: hodei_sdk::job::TenantId::default(),
        role: hodei_sdk::Role::Viewer,
    };
    let (_, text) = served.hodei.tokens().create(terms, Some(Duration::from_secs(60))).await.unwrap();
    let options = hodei_sdk::ConnectOptions { token: Some(text), ..served.options() };
    let client = Hodei::connect_with(options).await.unwrap();
    client.jobs().list(JobFilter::default()).await.unwrap();
    clock.set_back(TWO_HOURS);
    clock.advance(Duration::from_secs(59));
    client.jobs().list(JobFilter::default()).await.unwrap();
    clock.advance(Duration::from_secs(2));
    let refused = client.jobs().list(JobFilter::default()).await.unwrap_err();
    assert!(refused.to_string().contains("expired"), "{refused}");
    served.stop.cancel();
}
