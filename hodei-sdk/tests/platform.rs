//! The public API of the platform, over real processes and over scripted workers.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/output.rs"]
mod output;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hodei_sdk::event::DomainEvent;
use hodei_sdk::id::{OrderId, StoreId, WorkerId};
use hodei_sdk::job::Labels;
use hodei_sdk::port::{
    Clock, ClockExt, FeedCursor, IdGenerator, JobFilter, LogBody, LogStore, ProvidedWorker, ProviderError,
    WorkerProvider,
};
use hodei_sdk::providers::ProviderProfile;
use hodei_sdk::testing::{
    ChaosLogStore, ChaosStore, Fault, Faults, ScriptedJob, TestCloud, TestWorkerProvider, WorkerFault,
};
use hodei_sdk::worker::{Lifetime, WorkerCapacity, WorkerOrder, WorkerStatus};
use hodei_sdk::{
    Error, Hodei, HodeiBuilder, Job, JobResources, JobSpec, JobStatus, LocalOptions, LocalProvider, LogItem,
    ManualClock, MemoryLogStore, MemoryStore, Priority, Settings, StartState, SystemClock, SystemIds,
};
use output::output;

fn cloud(faults: impl Fn(u32) -> WorkerFault + Send + Sync + 'static) -> TestCloud {
    TestCloud::new(Arc::new(SystemClock::default()), Arc::new(SystemIds::default()), faults)
}

fn over(cloud: &TestCloud) -> HodeiBuilder {
    let cloud = cloud.clone();
    Hodei::builder()
        .settings(Settings::quick())
        .provider(move |context| TestWorkerProvider::new(&context, &cloud))
}

fn scripted(millis: u64) -> ScriptedJob {
    ScriptedJob { run: Duration::from_millis(millis), ..ScriptedJob::default() }
}

async fn run(hodei: &Hodei, spec: hodei_sdk::JobSpecBuilder) -> Arc<Job> {
    hodei.submit(spec.build().unwrap()).await.unwrap().wait().await.unwrap()
}

async fn names(hodei: &Hodei, job: &Job) -> Vec<&'static str> {
    hodei.jobs().history(job.id()).await.unwrap().iter().map(|envelope| envelope.event.name()).collect()
}

#[tokio::test]
async fn a_finished_job_keeps_its_state_history_and_output() {
    let hodei = Hodei::local().await.unwrap();
    let job = hodei.submit(JobSpec::shell("echo out; echo err >&2; exit 3").build().unwrap()).await.unwrap();
    assert_eq!(output(&job).await.len(), "out\nerr\n".len());
    let ended = job.wait().await.unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Failed, 1));
    let expected = ["JobCreated", "JobQueued", "JobAssigned", "JobStarted", "JobFailed"];
    assert_eq!(names(&hodei, &ended).await, expected);
    assert_eq!(job.get().await.unwrap(), ended);
    assert_eq!(hodei.jobs().list(JobFilter::default()).await.unwrap().jobs, [ended]);
    assert_eq!(output(&job).await, output(&job).await, "output can be read again");
    assert!(matches!(job.cancel().await, Err(Error::Ended { status: JobStatus::Failed, .. })));
    hodei.shutdown().await;
}

#[tokio::test]
async fn without_sweeps_a_thousand_jobs_finish() {
    let mut settings = Settings::quick();
    settings.sweep = None;
    let hodei = Hodei::builder().settings(settings).start().await.unwrap();
    let specs = (0..1000).map(|_| JobSpec::command(["true"]).build().unwrap()).collect();
    let jobs = hodei.submit_batch(specs).await.unwrap();
    for job in jobs {
        assert_eq!(job.unwrap().wait().await.unwrap().status(), JobStatus::Succeeded);
    }
    let waits = [run(&hodei, JobSpec::command(["false"]).retries(1)).await];
    assert_eq!(waits[0].attempt(), 2, "a backoff ends without a sweep too");
    hodei.shutdown().await;
}

/// A store whose commits panic on demand.
#[derive(Debug, Default)]
struct Panics(AtomicBool);

impl Faults for Panics {
    fn next(&self, call: &'static str) -> Fault {
        assert!(call != "commit" || !self.0.load(Ordering::Relaxed), "a mistake");
        Fault::None
    }
}

#[tokio::test]
async fn a_platform_with_a_failed_component_reports_that_it_stopped() {
    let (panics, clock) = (Arc::new(Panics::default()), Arc::new(SystemClock::default()));
    let store = MemoryStore::new(SystemIds::default().uuid(clock.now()));
    let store = ChaosStore::new(Arc::new(store), clock, panics.clone());
    let hodei = over(&cloud(|_| WorkerFault::None)).store(Arc::new(store)).start().await.unwrap();
    panics.0.store(true, Ordering::Relaxed);
    let _ = hodei.submit(scripted(1).spec().build().unwrap()).await;
    SystemClock::default().timeout(Duration::from_secs(10), hodei.stopped()).await.unwrap();
    assert!(matches!(hodei.submit(scripted(1).spec().build().unwrap()).await, Err(Error::ShuttingDown)));
}

#[tokio::test]
async fn a_lying_worker_changes_nothing() {
    let cloud = cloud(|number| if number == 1 { WorkerFault::Lies } else { WorkerFault::None });
    let hodei = over(&cloud).start().await.unwrap();
    let job = hodei
        .submit(ScriptedJob { lines: 2, exit: 4, ..scripted(50) }.spec().build().unwrap())
        .await
        .unwrap();
    let ended = job.wait().await.unwrap();
    let run = ended.ending().unwrap().run.as_ref().unwrap();
    assert_eq!(
        (ended.status(), run.exit_code),
        (JobStatus::Failed, Some(4)),
        "{:?}",
        names(&hodei, &ended).await
    );
    assert!(!output(&job).await.contains("lie"));
    hodei.shutdown().await;
}

/// Faults that delay every write to the log.
#[derive(Debug)]
struct Slow;

impl Faults for Slow {
    fn next(&self, _: &'static str) -> Fault {
        Fault::Slow(Duration::from_millis(100))
    }
}

#[tokio::test]
async fn a_job_ends_only_when_its_output_is_stored() {
    let (cloud, logs) = (cloud(|_| WorkerFault::None), MemoryLogStore::default());
    let slow = ChaosLogStore::new(Arc::new(logs.clone()), Arc::new(SystemClock::default()), Arc::new(Slow));
    let hodei = over(&cloud).log_store(Arc::new(slow)).start().await.unwrap();
    let ended = run(&hodei, ScriptedJob { lines: 3, ..scripted(10) }.spec()).await;
    assert_eq!(logs.state(ended.attempt_id()).await.unwrap().next, 3);
    hodei.shutdown().await;
}

#[tokio::test]
async fn the_job_of_a_lost_worker_runs_again_elsewhere() {
    for fault in
        [WorkerFault::Dies(Duration::from_millis(100)), WorkerFault::Vanishes(Duration::from_millis(100))]
    {
        let cloud = cloud(move |number| if number == 1 { fault } else { WorkerFault::None });
        let hodei = over(&cloud).start().await.unwrap();
        let ended = run(&hodei, scripted(600).spec()).await;
        assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 2), "{fault:?}");
        let once = cloud.starts();
        assert!(once.values().all(|count| *count == 1));
        hodei.shutdown().await;
    }
}

#[tokio::test]
async fn an_at_most_once_job_fails_if_its_worker_is_lost() {
    let cloud =
        cloud(
            |number| {
                if number == 1 { WorkerFault::Dies(Duration::from_millis(100)) } else { WorkerFault::None }
            },
        );
    let hodei = over(&cloud).start().await.unwrap();
    let ended = run(&hodei, scripted(600).spec().at_most_once()).await;
    assert_eq!((ended.status(), ended.cause().unwrap().as_str()), (JobStatus::Failed, "lost"));
    assert_eq!(cloud.starts().len(), 1);
    hodei.shutdown().await;
}

#[tokio::test]
async fn a_refusing_provider_is_retried_after_a_pause() {
    let cloud = cloud(|number| if number == 1 { WorkerFault::Refused } else { WorkerFault::None });
    let hodei = over(&cloud).start().await.unwrap();
    let ended = run(&hodei, scripted(1).spec()).await;
    assert_eq!(ended.status(), JobStatus::Succeeded);
    let events = hodei.events().read(&FeedCursor::default(), 100).await.unwrap().events;
    assert!(events.iter().any(|envelope| envelope.event.name() == "ProviderHealthChanged"));
    hodei.shutdown().await;
}

#[tokio::test]
async fn warm_workers_are_reused_and_single_job_workers_are_not() {
    let warm = cloud(|_| WorkerFault::None);
    let hodei = over(&warm).start().await.unwrap();
    let first = run(&hodei, scripted(1).spec()).await;
    let second = run(&hodei, scripted(1).spec()).await;
    assert_eq!((first.worker(), warm.created()), (second.worker(), 1));
    hodei.shutdown().await;

    let single = cloud(|_| WorkerFault::None)
        .with_profile(|profile| profile.lifetime = Lifetime { max_jobs: Some(1), ..Lifetime::default() });
    let hodei = over(&single).start().await.unwrap();
    let first = run(&hodei, scripted(1).spec()).await;
    let second = run(&hodei, scripted(1).spec()).await;
    assert_ne!(first.worker(), second.worker());
    let worker = hodei.workers().get(first.worker().unwrap()).await.unwrap().unwrap();
    assert_eq!((worker.status, worker.taken, worker.max_jobs), (WorkerStatus::Terminated, 1, Some(1)));
    hodei.shutdown().await;
}

#[tokio::test]
async fn jobs_start_by_priority_then_age_and_a_blocked_head_blocks_no_other() {
    let cloud = cloud(|_| WorkerFault::None).with_profile(|profile| {
        profile.max_workers = 1;
        profile.capacity.slots = 1;
        profile.capacity.prefetch = 0;
    });
    let hodei = over(&cloud).start().await.unwrap();
    let submit = async |spec: hodei_sdk::JobSpecBuilder| hodei.submit(spec.build().unwrap()).await.unwrap();
    let blocker = submit(scripted(300).spec().concurrency("one", 1)).await;
    tokio_sleep(50).await;
    let stuck = submit(scripted(1).spec().concurrency("one", 1).priority(Priority::CRITICAL)).await;
    let low = submit(scripted(1).spec().priority(Priority::LOW)).await;
    let old = submit(scripted(1).spec()).await;
    let young = submit(scripted(1).spec()).await;
    let mut started = Vec::new();
    for job in [&blocker, &stuck, &low, &old, &young] {
        started.push((job.wait().await.unwrap().started_at().unwrap(), job.id()));
    }
    started.sort();
    let order: Vec<_> = started.into_iter().map(|(_, id)| id).collect();
    assert_eq!(order, [blocker.id(), stuck.id(), old.id(), young.id(), low.id()]);
    hodei.shutdown().await;
}

#[allow(clippy::disallowed_methods, reason = "a test over the machine's clock")]
async fn tokio_sleep(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

#[tokio::test]
async fn a_repeated_submit_returns_the_first_job() {
    let hodei = Hodei::local().await.unwrap();
    let spec = || JobSpec::command(["true"]).idempotency_key("key").build().unwrap();
    let first = hodei.submit(spec()).await.unwrap();
    assert_eq!(hodei.submit(spec()).await.unwrap().id(), first.id());
    assert_eq!(hodei.submit_as(first.id(), spec()).await.unwrap().id(), first.id());
    let other = JobSpec::command(["false"]).idempotency_key("key").build().unwrap();
    match hodei.submit(other.clone()).await {
        Err(Error::AlreadyExists { existing, .. }) => assert_eq!(existing, first.id()),
        answer => panic!("{answer:?}"),
    }
    assert!(matches!(hodei.submit_as(first.id(), other).await, Err(Error::AlreadyExists { .. })));
    first.wait().await.unwrap();
    let again = hodei.jobs().retry(first.id()).await.unwrap();
    assert_eq!(again.wait().await.unwrap().retry_of(), Some(first.id()));
    hodei.shutdown().await;
}

#[tokio::test]
async fn an_unsupported_field_is_refused_by_name() {
    let hodei = Hodei::local().await.unwrap();
    let gpu = hodei_sdk::JobResources { gpus: 1, ..hodei_sdk::JobResources::default() };
    let cases = [
        (JobSpec::command(["true"]).image("busybox"), "image"),
        (JobSpec::command(["true"]).resources(gpu), "resources.gpus"),
        (JobSpec::command(["true"]).constraint("os EQ plan9".parse().unwrap()), "constraints"),
    ];
    for (spec, field) in cases {
        let error = hodei.submit(spec.build().unwrap()).await.unwrap_err();
        assert_eq!(error.field(), Some(field), "{error}");
    }
    assert!(hodei.jobs().list(JobFilter::default()).await.unwrap().jobs.is_empty());
    hodei.shutdown().await;
}

#[tokio::test]
async fn the_platform_takes_time_only_from_its_clock() {
    let clock = Arc::new(ManualClock::default());
    let cloud = TestCloud::new(clock.clone(), Arc::new(SystemIds::default()), |_| WorkerFault::None);
    let hodei = over(&cloud).clock(clock.clone()).start().await.unwrap();
    let hour = Duration::from_secs(3600);
    let later =
        hodei.submit(scripted(0).spec().not_before(clock.now() + hour).build().unwrap()).await.unwrap();
    let never = scripted(0).spec().not_before(clock.now() + hour * 3).start_by(clock.now() + hour * 3);
    let never = hodei.submit(never.build().unwrap()).await.unwrap();
    settle().await;
    assert_eq!(later.get().await.unwrap().status(), JobStatus::Created);
    for _ in 0..2000 {
        clock.advance_to_next();
        settle().await;
        if later.get().await.unwrap().is_terminal() {
            break;
        }
        clock.advance(Duration::from_secs(2));
    }
    assert_eq!(later.get().await.unwrap().status(), JobStatus::Succeeded);
    assert!(
        later.get().await.unwrap().started_at().unwrap() >= later.get().await.unwrap().created_at() + hour
    );
    never.cancel().await.unwrap();
    let mut watch = hodei.jobs().watch(never.id());
    assert_eq!(watch.next().await.unwrap().unwrap().status(), JobStatus::Cancelled);
    assert!(watch.next().await.unwrap().is_none());
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn output_beyond_the_limit_is_a_gap() {
    let mut settings = Settings::quick();
    settings.log_limit = 100_000;
    let hodei = Hodei::builder().settings(settings).start().await.unwrap();
    let job = hodei.submit(JobSpec::shell("head -c 3000000 /dev/zero").build().unwrap()).await.unwrap();
    let (mut logs, mut bytes, mut gaps) = (job.logs(), 0, 0);
    while let Some(item) = logs.next().await.unwrap() {
        let LogItem::Record { record, .. } = item else { panic!("torn") };
        match record.body {
            LogBody::Chunk { bytes: chunk, .. } => bytes += chunk.len(),
            LogBody::Gap(_) => gaps += 1,
        }
    }
    assert!((100_000..300_000).contains(&bytes) && gaps == 1, "{bytes} bytes, {gaps} gaps");
    let history = hodei.jobs().history(job.id()).await.unwrap();
    assert!(history.iter().any(|envelope| matches!(envelope.event, DomainEvent::LogGapRecorded { .. })));
    hodei.shutdown().await;
}

/// Runs a job with an output in lines of eight bytes. Returns the output before the gap, the missing bytes by the gap,
/// and the output after it.
async fn beyond_the_limit(
    settings: Settings,
    builder: hodei_sdk::HodeiBuilder,
    lines: usize,
) -> (Vec<u8>, u64, Vec<u8>) {
    let hodei = builder.settings(settings).start().await.unwrap();
    let line = format!("seq -f %07.0f 1 {lines}; echo over");
    let job = hodei.submit(JobSpec::shell(line).build().unwrap()).await.unwrap();
    let (mut logs, mut begin, mut missing, mut end) = (job.logs(), Vec::new(), 0, Vec::new());
    while let Some(item) = logs.next().await.unwrap() {
        let LogItem::Record { record, .. } = item else { panic!("torn") };
        match record.body {
            LogBody::Chunk { bytes, .. } if missing == 0 => begin.extend(bytes),
            LogBody::Chunk { bytes, .. } => end.extend(bytes),
            LogBody::Gap(gap) => missing += gap.bytes,
        }
    }
    hodei.shutdown().await;
    (begin, missing, end)
}

async fn keep_begin_and_end(builder: hodei_sdk::HodeiBuilder) {
    let mut settings = Settings::quick();
    settings.log_limit = 1 << 20;
    let (begin, missing, end) = beyond_the_limit(settings, builder, 1_000_000).await;
    let all: Vec<u8> =
        (1..=1_000_000).flat_map(|number| format!("{number:07}\n").into_bytes()).chain(*b"over\n").collect();
    assert!(begin.len() >= 1 << 20 && all.starts_with(&begin), "{} bytes of the beginning", begin.len());
    assert!(
        end.len() > 900_000 && end.len() <= 1 << 20 && all.ends_with(&end),
        "{} bytes of the end",
        end.len()
    );
    assert_eq!(begin.len() as u64 + missing + end.len() as u64, all.len() as u64, "the gap has the rest");
}

#[tokio::test]
async fn beyond_the_limit_the_end_is_kept_and_the_gap_has_its_bytes() {
    keep_begin_and_end(Hodei::builder()).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn beyond_the_limit_the_end_is_kept_in_a_directory_too() {
    let dir = tempfile::tempdir().unwrap();
    keep_begin_and_end(Hodei::builder().url(format!("sqlite:{}", dir.path().display()))).await;
}

#[tokio::test]
async fn an_output_over_its_limit_by_less_than_the_kept_end_is_complete() {
    let mut settings = Settings::quick();
    settings.log_limit = 1 << 20;
    let (begin, missing, end) = beyond_the_limit(settings, Hodei::builder(), 200_000).await;
    assert_eq!((begin.len(), missing, end.len()), (1_600_005, 0, 0));
}

#[tokio::test]
async fn a_dropped_platform_leaves_no_process_and_spares_another() {
    let (one, two) = (Hodei::local().await.unwrap(), Hodei::local().await.unwrap());
    let sleeper = one.submit(JobSpec::command(["sleep", "60"]).build().unwrap()).await.unwrap();
    while sleeper.get().await.unwrap().status() != JobStatus::Running {
        tokio_sleep(5).await;
    }
    let marks = [format!("HODEI_OWNER={}/local", one.store_id().unwrap())];
    assert_eq!(hodei_agent::marked_processes(&marks).len(), 1);
    drop((sleeper, one));
    for _ in 0..200 {
        if hodei_agent::marked_processes(&marks).is_empty() {
            break;
        }
        tokio_sleep(10).await;
    }
    assert!(hodei_agent::marked_processes(&marks).is_empty());
    assert_eq!(run(&two, JobSpec::command(["true"])).await.status(), JobStatus::Succeeded);
    two.shutdown().await;
}

#[tokio::test]
async fn a_changed_provider_fails_jobs_that_no_provider_can_run() {
    let cloud = cloud(|_| WorkerFault::Absent);
    let store = Arc::new(hodei_sdk::MemoryStore::new(uuid::Uuid::from_u128(5)));
    let first = over(&cloud).store(store.clone()).start().await.unwrap();
    let job = first.submit(scripted(1).spec().image("busybox").build().unwrap()).await.unwrap().id();
    drop(first);
    let cloud = cloud.with_profile(|profile| profile.runs_images = false);
    let second = over(&cloud).store(store).start().await.unwrap();
    let ended = second.job(job).wait().await.unwrap();
    assert_eq!(ended.cause().unwrap().as_str(), "configuration");
    let events = second.events().read(&FeedCursor::default(), 1000).await.unwrap().events;
    assert!(events.iter().any(|envelope| envelope.event.name() == "ProviderUpdated"));
    second.shutdown().await;
}

#[test]
fn a_local_provider_offers_this_machine() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (seen, profile) = std::sync::mpsc::channel();
        let make = move |context| {
            let provider = hodei_sdk::LocalProvider::new(context, hodei_sdk::LocalOptions::default());
            seen.send(provider.profile()).unwrap();
            provider
        };
        let hodei = Hodei::builder().provider(make).start().await.unwrap();
        let profile = profile.recv().unwrap();
        assert!(
            profile.labels["arch"] == std::env::consts::ARCH && profile.capacity.resources.memory_bytes > 0
        );
        hodei.shutdown().await;
    });
}

#[tokio::test]
async fn a_program_sets_the_start_state_of_its_jobs_and_keeps_its_own() {
    let mine = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let umask = status.lines().find(|line| line.starts_with("Umask")).unwrap().to_owned();
        (
            umask,
            std::fs::read_to_string("/proc/self/oom_score_adj").unwrap(),
            std::env::current_dir().unwrap(),
        )
    };
    let before = mine();
    let start_state =
        StartState { umask: 0o027, open_files: Some(321), oom_score_adj: Some(456), ..StartState::default() };
    let options = LocalOptions { start_state, ..LocalOptions::default() };
    let hodei = Hodei::builder().provider(|context| LocalProvider::new(context, options));
    let hodei = hodei.start().await.unwrap();
    for pids in [0, 50] {
        let limits = JobResources { pids, ..JobResources::default() };
        let spec = JobSpec::shell("umask; ulimit -Sn; cat /proc/self/oom_score_adj").resources(limits);
        let job = hodei.submit(spec.build().unwrap()).await.unwrap();
        assert_eq!(output(&job).await, "0027\n321\n456\n", "{pids}");
    }
    assert_eq!(mine(), before);
    hodei.shutdown().await;
}

/// A provider with a worker that the store does not know.
#[derive(Debug)]
struct Attic(Arc<Mutex<Option<WorkerId>>>);

#[async_trait::async_trait]
impl WorkerProvider for Attic {
    fn profile(&self) -> ProviderProfile {
        ProviderProfile {
            name: "attic".into(),
            kind: "attic".into(),
            runs_images: false,
            capacity: WorkerCapacity::slots(1),
            labels: Labels::new(),
            max_workers: 1,
            lifetime: Lifetime::default(),
            secrets: vec![hodei_sdk::secret::SecretPattern::any()],
            requires_limits: false,
        }
    }

    async fn create(&self, _: &WorkerOrder) -> Result<String, ProviderError> {
        Err(ProviderError::Refused("an attic makes nothing".into()))
    }

    async fn destroy(&self, worker: WorkerId, _: Duration) -> Result<(), ProviderError> {
        self.0.lock().unwrap().take_if(|left| *left == worker);
        Ok(())
    }

    async fn list(&self, _: StoreId) -> Result<Vec<ProvidedWorker>, ProviderError> {
        let left = *self.0.lock().unwrap();
        let order = OrderId::from_uuid(uuid::Uuid::nil());
        Ok(left.into_iter().map(|worker| ProvidedWorker { worker, order, exited: None }).collect())
    }
}

#[tokio::test]
async fn a_worker_without_an_order_is_destroyed_at_the_start() {
    let left = Arc::new(Mutex::new(Some(WorkerId::from_uuid(uuid::Uuid::from_u128(7)))));
    let attic = left.clone();
    let builder = Hodei::builder().settings(Settings::quick()).provider(move |_| Attic(attic));
    let hodei = builder.start().await.unwrap();
    for _ in 0..100 {
        if left.lock().unwrap().is_none() {
            return hodei.shutdown().await;
        }
        tokio_sleep(50).await;
    }
    panic!("the worker still exists");
}

#[tokio::test]
async fn completions_arrive_although_one_of_the_jobs_does_not_exist() {
    let hodei = Hodei::local().await.unwrap();
    let job = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    job.wait().await.unwrap();
    let missing = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let mut ends = hodei.jobs().completions(vec![missing, job.id()]);
    assert_eq!(ends.next().await.unwrap().map(|ended| ended.id()), Some(job.id()));
    assert!(matches!(ends.next().await, Err(Error::NotFound(id)) if id == missing));
    hodei.shutdown().await;
}

#[tokio::test]
async fn an_invalid_store_url_is_reported_without_its_password() {
    for url in ["postgress://me:s3cret@host/d", "mysql://me:s3cret@host", "me:s3cret@host"] {
        let error = Hodei::open(url).await.expect_err(url).to_string();
        assert!(
            error.contains("is not a valid address of a store")
                && error.contains("host")
                && !error.contains("s3cret"),
            "{error}"
        );
    }
}
