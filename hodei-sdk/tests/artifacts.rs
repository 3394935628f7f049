//! Artifacts as inputs of other jobs and as downloads.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/served.rs"]
mod served;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hodei_sdk::access::Caller;
use hodei_sdk::id::JobId;
use hodei_sdk::job::TenantId;
use hodei_sdk::port::{ArtifactStore, Clock};
use hodei_sdk::time::Timestamp;
use hodei_sdk::{
    CauseKind, Error, Hodei, InputRefusal, Job, JobSpec, JobSpecBuilder, JobStatus, LocalOptions,
    LocalProvider, MemoryArtifacts, MemoryLogStore, MemoryStore, ProcessOptions, ProcessProvider, Settings,
    SystemClock, Workspaces,
};
use served::{Served, agent, within};

/// A job that leaves `out/a` and a large file of known content.
fn producer() -> JobSpecBuilder {
    let line = "mkdir out; echo hello > out/a; head -c 3000000 /dev/zero | tr '\\0' x > out/large";
    JobSpec::shell(line).output("out".parse().unwrap())
}

fn consumer(of: &Job) -> JobSpecBuilder {
    let id = of.id();
    JobSpec::shell("cat in/a; wc -c < out/large")
        .input(format!("{id}/out/a:in/a").parse().unwrap())
        .input(format!("{id}/out/large").parse().unwrap())
}

async fn run(hodei: &Hodei, spec: JobSpecBuilder) -> Arc<Job> {
    let job = hodei.submit(spec.build().unwrap()).await.unwrap();
    within(job.wait()).await.unwrap()
}

async fn output(hodei: &Hodei, job: &Job) -> String {
    let (mut logs, mut text) = (hodei.jobs().logs(job.id()), Vec::new());
    while let Some(item) = logs.next().await.unwrap() {
        let hodei_sdk::LogItem::Record { record, .. } = item else { continue };
        if let hodei_sdk::port::LogBody::Chunk { bytes, .. } = record.body {
            text.extend_from_slice(&bytes);
        }
    }
    String::from_utf8(text).unwrap()
}

async fn text(hodei: &Hodei, job: &Job, name: &str) -> Result<String, Error> {
    let bytes = hodei.artifacts().get(job.id(), &name.parse().unwrap()).await?.bytes().await?;
    Ok(String::from_utf8(bytes).unwrap())
}

fn names(job: &Job) -> Vec<&str> {
    job.artifacts().iter().map(|artifact| artifact.name.as_str()).collect()
}

/// Runs a producer and a consumer, and downloads the artifacts.
async fn pass_on(hodei: &Hodei) {
    let made = run(hodei, producer()).await;
    assert_eq!((made.status(), names(&made)), (JobStatus::Succeeded, vec!["out/a", "out/large"]));
    assert_eq!(text(hodei, &made, "out/a").await.unwrap(), "hello\n");
    let large = text(hodei, &made, "out/large").await.unwrap();
    assert!(large.len() == 3_000_000 && large.bytes().all(|byte| byte == b'x'));
    let used = run(hodei, consumer(&made)).await;
    assert_eq!(output(hodei, &used).await, "hello\n3000000\n");
    let again = hodei.jobs().retry(used.id()).await.unwrap().wait().await.unwrap();
    assert_eq!(again.status(), JobStatus::Succeeded, "a retry has the same inputs");
    let missing = text(hodei, &made, "out/b").await.unwrap_err();
    assert!(missing.to_string().contains("has no artifact `out/b`"), "{missing}");
}

#[tokio::test]
async fn artifacts_reach_jobs_and_clients_in_memory() {
    let hodei = Hodei::local().await.unwrap();
    pass_on(&hodei).await;
    hodei.shutdown().await;
}

#[tokio::test]
async fn artifacts_reach_jobs_and_clients_in_a_directory_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().display());
    let hodei = Hodei::open(&url).await.unwrap();
    pass_on(&hodei).await;
    let made = run(&hodei, producer()).await;
    hodei.shutdown().await;
    let hodei = Hodei::open(&url).await.unwrap();
    assert_eq!(text(&hodei, &made, "out/a").await.unwrap(), "hello\n");
    let used = run(&hodei, consumer(&made)).await;
    assert_eq!(output(&hodei, &used).await, "hello\n3000000\n");
    hodei.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_reach_jobs_and_clients_through_a_daemon_and_its_agents() {
    let served = Served::with_processes(Settings::quick()).await;
    pass_on(&served.connect().await).await;
    served.end().await;
}

#[tokio::test]
async fn only_the_last_attempt_leaves_artifacts() {
    let hodei = Hodei::local().await.unwrap();
    let spec = JobSpec::shell("echo $HODEI_ATTEMPT > log; [ $HODEI_ATTEMPT = 3 ]").retries(2);
    let job = run(&hodei, spec.output("log:always".parse().unwrap())).await;
    assert_eq!((job.attempt(), names(&job)), (3, vec!["log"]));
    assert_eq!(text(&hodei, &job, "log").await.unwrap(), "3\n");
    let failed =
        run(&hodei, JobSpec::shell("echo why > log; exit 1").output("log:always".parse().unwrap())).await;
    assert_eq!(failed.cause(), Some(CauseKind::Exit));
    assert_eq!(text(&hodei, &failed, "log").await.unwrap(), "why\n");
    hodei.shutdown().await;
}

#[tokio::test]
async fn a_refused_submit_names_the_input() {
    let hodei = Hodei::local().await.unwrap();
    let made = run(&hodei, producer()).await;
    let refused = async |hodei: &Hodei, spec: JobSpecBuilder| {
        let refused = hodei.submit(spec.build().unwrap()).await.unwrap_err();
        assert_eq!(refused.field(), Some("inputs"), "{refused}");
        match refused {
            Error::InputRefused { why, .. } => why,
            other => panic!("{other}"),
        }
    };
    let missing = JobSpec::shell("true").input(format!("{}/out/none", made.id()).parse().unwrap());
    assert_eq!(refused(&hodei, missing).await, InputRefusal::NoArtifact);
    let unknown = JobSpec::shell("true").input("0197f3c6-7d2b-7000-8000-000000000001/a".parse().unwrap());
    assert_eq!(refused(&hodei, unknown).await, InputRefusal::NoJob);
    let other = hodei.with_caller(Caller { tenant: TenantId::new("other"), ..Caller::default() });
    assert_eq!(refused(&other, consumer(&made)).await, InputRefusal::NoJob, "it belongs to another tenant");
    hodei.shutdown().await;
}

#[tokio::test]
async fn an_input_of_a_job_that_has_not_ended_is_refused_with_its_state() {
    let hodei = Hodei::local().await.unwrap();
    let keep = |line: &str| JobSpec::shell(line).output("out".parse().unwrap()).concurrency("k", 1);
    let running = hodei.submit(keep("echo 1 > out; sleep 0.5").build().unwrap()).await.unwrap();
    let waiting = hodei.submit(keep("echo 2 > out").build().unwrap()).await.unwrap();
    let later = Timestamp::from_micros(i64::MAX / 2);
    let delayed = hodei.submit(keep("true").not_before(later).build().unwrap()).await.unwrap();
    while running.get().await.unwrap().status() != JobStatus::Running {
        SystemClock::default().sleep(Duration::from_millis(10)).await;
    }
    let consumer = |source: &Hodei, id: JobId| {
        let spec = JobSpec::shell("cat in").input(format!("{id}/out:in").parse().unwrap());
        let (hodei, spec) = (source.clone(), spec.build().unwrap());
        async move { hodei.submit(spec).await }
    };
    let states = [
        (running.id(), JobStatus::Running),
        (waiting.id(), JobStatus::Pending),
        (delayed.id(), JobStatus::Created),
    ];
    for (id, status) in states {
        let refused = consumer(&hodei, id).await.unwrap_err();
        assert_eq!(refused.field(), Some("inputs"));
        assert!(
            matches!(refused, Error::InputRefused { why: InputRefusal::NotEnded(is), .. } if is == status)
        );
        let said = refused.to_string();
        assert!(said.contains(&format!("{id}/out does not exist yet: the job is {status}")), "{said}");
        assert!(said.contains("hodei job wait"), "{said}");
    }
    running.wait().await.unwrap();
    let fed = consumer(&hodei, running.id()).await.unwrap().wait().await.unwrap();
    assert_eq!(fed.status(), JobStatus::Succeeded, "after it ended");
    delayed.cancel().await.unwrap();
    hodei.shutdown().await;
}

#[tokio::test]
async fn an_artifact_over_the_limit_fails_the_job_and_is_not_kept() {
    let mut settings = Settings::quick();
    settings.artifact_limit = 1000;
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().display());
    let hodei = Hodei::builder().url(url).settings(settings).start().await.unwrap();
    let keep = |line: &str| JobSpec::shell(line).output("out".parse().unwrap());
    let job = run(&hodei, keep("head -c 1000 /dev/zero > out")).await;
    assert_eq!(job.status(), JobStatus::Succeeded);
    let job = run(&hodei, keep("head -c 1001 /dev/zero > out")).await;
    assert_eq!(job.cause(), Some(CauseKind::Artifact));
    assert!(format!("{:?}", job.ending()).contains("over the limit of 1000 bytes"), "{:?}", job.ending());
    assert_eq!(files(&dir.path().join("artifacts")), 1);
    hodei.shutdown().await;
}

/// Returns the number of files below a directory.
fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

#[tokio::test]
async fn artifacts_are_refused_without_an_artifact_store() {
    let (store, logs) =
        (Arc::new(MemoryStore::new(uuid::Uuid::from_u128(1))), Arc::new(MemoryLogStore::default()));
    let hodei = Hodei::builder().store(store.clone()).log_store(logs.clone()).start().await.unwrap();
    let refused = hodei.submit(producer().build().unwrap()).await.unwrap_err();
    assert!(matches!(refused, Error::ArtifactsDisabled), "{refused}");
    hodei.shutdown().await;
    let artifacts = Arc::new(MemoryArtifacts::default());
    let hodei = Hodei::builder().store(store).log_store(logs).artifacts(artifacts).start().await.unwrap();
    pass_on(&hodei).await;
    hodei.shutdown().await;
}

#[tokio::test]
async fn artifacts_are_deleted_with_their_job() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().display());
    let hodei = Hodei::open(&url).await.unwrap();
    let job = run(&hodei, producer()).await;
    hodei.shutdown().await;
    let kept = files(&dir.path().join("artifacts"));
    // At the next start, every ended job is old.
    let mut settings = Settings::quick();
    settings.history = Duration::ZERO;
    let hodei = Hodei::builder().url(url).settings(settings).start().await.unwrap();
    let clock = SystemClock::default();
    let forgotten = async {
        while hodei.jobs().get(job.id()).await.is_ok() {
            clock.sleep(Duration::from_millis(10)).await;
        }
    };
    within(forgotten).await;
    assert_eq!((kept, files(&dir.path().join("artifacts"))), (2, 0));
    hodei.shutdown().await;
}

#[tokio::test]
async fn a_job_without_a_workspace_may_run_in_the_directory_of_the_program() {
    let workspaces = Workspaces { only_if_needed: true, ..Workspaces::default() };
    let options = LocalOptions { workspaces, ..LocalOptions::default() };
    let hodei = Hodei::builder().provider(|context| LocalProvider::new(context, options));
    let hodei = hodei.start().await.unwrap();
    let here = format!("{}\n", std::env::current_dir().unwrap().display());
    let plain = run(&hodei, JobSpec::shell("pwd")).await;
    let within = run(&hodei, JobSpec::shell("pwd").working_dir("sub")).await;
    assert_eq!(output(&hodei, &plain).await, here);
    let dir = output(&hodei, &within).await;
    assert!(dir.ends_with("/sub\n") && !Path::new(dir.trim()).exists(), "{dir}");
    hodei.shutdown().await;
}

/// An artifact store that fails on demand. It uses only the public port.
#[derive(Debug, Default)]
struct Fickle {
    kept: MemoryArtifacts,
    failures: std::sync::atomic::AtomicU32,
    /// Wait before it reads content to store.
    pause: Duration,
    /// Jobs whose artifacts it refuses to remove.
    stuck: std::sync::Mutex<Vec<hodei_sdk::id::JobId>>,
}

#[async_trait::async_trait]
impl ArtifactStore for Fickle {
    async fn put(
        &self,
        key: &hodei_sdk::artifact::ArtifactKey,
        content: hodei_sdk::port::ArtifactContent,
    ) -> Result<(), hodei_sdk::port::ArtifactError> {
        use std::sync::atomic::Ordering;
        if self
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
        {
            return Err(hodei_sdk::port::ArtifactError::Unavailable("a full disk".into()));
        }
        SystemClock::default().sleep(self.pause).await;
        self.kept.put(key, content).await
    }

    async fn get(
        &self,
        key: &hodei_sdk::artifact::ArtifactKey,
    ) -> Result<Option<hodei_sdk::port::ArtifactContent>, hodei_sdk::port::ArtifactError> {
        self.kept.get(key).await
    }

    async fn remove(
        &self,
        tenant: &TenantId,
        jobs: &[hodei_sdk::id::JobId],
    ) -> Result<(), hodei_sdk::port::ArtifactError> {
        if jobs.iter().any(|job| self.stuck.lock().unwrap().contains(job)) {
            return Err(hodei_sdk::port::ArtifactError::Unavailable("locked".into()));
        }
        self.kept.remove(tenant, jobs).await
    }
}

#[tokio::test]
async fn a_job_whose_artifacts_cannot_be_removed_is_kept_and_delays_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let artifacts = Arc::new(Fickle::default());
    let start = async |history| {
        let mut settings = Settings::quick();
        settings.history = history;
        let url = format!("sqlite:{}", dir.path().display());
        Hodei::builder().url(url).settings(settings).artifacts(artifacts.clone()).start().await.unwrap()
    };
    let hodei = start(Duration::from_secs(3600)).await;
    let (stuck, others) = (run(&hodei, producer()).await.id(), [(); 3].map(|()| producer()));
    let mut gone = vec![];
    for other in others {
        gone.push(run(&hodei, other).await.id());
    }
    hodei.shutdown().await;
    artifacts.stuck.lock().unwrap().push(stuck);
    let hodei = start(Duration::ZERO).await;
    within(async {
        for job in gone {
            while hodei.jobs().get(job).await.is_ok() {
                SystemClock::default().sleep(Duration::from_millis(5)).await;
            }
        }
    })
    .await;
    assert_eq!(names(&hodei.jobs().get(stuck).await.unwrap()).len(), 2);
    hodei.shutdown().await;
}

#[tokio::test]
async fn a_temporary_failure_of_the_artifact_store_causes_no_second_run() {
    let artifacts = Arc::new(Fickle { failures: 3.into(), ..Fickle::default() });
    let hodei = Hodei::builder().artifacts(artifacts).start().await.unwrap();
    let job = run(&hodei, producer()).await;
    assert_eq!((job.status(), job.attempt(), names(&job).len()), (JobStatus::Succeeded, 1, 2));
    hodei.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_artifact_store_loses_no_worker() {
    let artifacts = Fickle { pause: Duration::from_secs(3), ..Fickle::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ProcessOptions::new(agent(), format!("http://{}", listener.local_addr().unwrap()));
    // The lease is one second, shorter than the pause.
    let hodei = Hodei::builder().settings(Settings::quick()).artifacts(Arc::new(artifacts));
    let hodei = hodei.provider(|context| ProcessProvider::new(context, options)).start().await.unwrap();
    let served = Served::of(listener, hodei);
    let specs = (0..4).map(|_| producer().build().unwrap()).collect();
    for job in served.hodei.submit_batch(specs).await.unwrap() {
        let job = within(job.unwrap().wait()).await.unwrap();
        assert_eq!((job.status(), job.attempt(), names(&job).len()), (JobStatus::Succeeded, 1, 2));
    }
    served.end().await;
}

#[tokio::test]
async fn a_repeated_submit_finds_its_job_after_its_input_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let open = async |history| {
        let mut settings = Settings::quick();
        settings.history = history;
        let url = format!("sqlite:{}", dir.path().display());
        Hodei::builder().url(url).settings(settings).start().await.unwrap()
    };
    let hodei = open(Duration::from_secs(60)).await;
    let source = run(&hodei, JobSpec::shell("echo 1 > out").output("out".parse().unwrap())).await;
    let input = format!("{}/out", source.id()).parse().unwrap();
    let later = Timestamp::from_micros(i64::MAX / 2);
    let spec = JobSpec::shell("true").input(input).not_before(later).build().unwrap();
    let id = "0197f3c6-7d2b-7000-8000-000000000001".parse().unwrap();
    hodei.submit_as(id, spec.clone()).await.unwrap();
    hodei.shutdown().await;
    let hodei = open(Duration::ZERO).await;
    while hodei.jobs().get(source.id()).await.is_ok() {
        SystemClock::default().sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(hodei.submit_as(id, spec.clone()).await.unwrap().id(), id);
    assert!(matches!(hodei.submit(spec).await, Err(Error::InputRefused { .. })), "a new submit is refused");
    hodei.shutdown().await;
}
