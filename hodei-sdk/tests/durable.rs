//! A platform on a data directory: kills, a full disk, wrong files, and a second opener.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test over real processes and real time"
)]
#![cfg(feature = "sqlite")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hodei_sdk::event::DomainEvent;
use hodei_sdk::port::{Clock, IdGenerator, JobFilter, LogBody, StoreError};
use hodei_sdk::{Error, Hodei, JobSpec, JobStatus, LogItem, OpenError, Outcome, Settings, SystemIds};

/// Variable with the directory of a child process of this test.
const CHILD_DIR_VARIABLE: &str = "HODEI_TEST_DIR";

fn url(dir: &Path) -> String {
    format!("sqlite:{}", dir.display())
}

async fn open(dir: &Path) -> Hodei {
    Hodei::builder().url(url(dir)).settings(Settings::quick()).start().await.unwrap()
}

/// Starts this program in another process that runs one ignored test.
fn child(name: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--ignored"])
        .env(CHILD_DIR_VARIABLE, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Returns the live processes with a mark of this store.
fn marked(store: &str) -> BTreeSet<u32> {
    let mark = format!("HODEI_OWNER={store}/local");
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has_mark = |pid: &u32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    pids.filter(has_mark).collect()
}

const JOBS: usize = 1000;

/// Returns the spec of a job that prints a line. Most are short. Two run until the file `over` exists, as do their
/// children, one of which leaves its process group.
fn spec(number: usize, dir: &Path) -> JobSpec {
    let spec = if number % 500 == 50 {
        let over = dir.join("over");
        let line = "echo $HODEI_JOB_ID; [ -e $OVER ] || { setsid sleep 600 & sleep 600; }";
        JobSpec::shell(line).env("OVER", over.display().to_string())
    } else {
        JobSpec::shell("echo $HODEI_JOB_ID")
    };
    spec.timeout(Duration::from_secs(60)).build().unwrap()
}

/// Submits jobs and prints their ids, until it is killed.
#[tokio::test]
#[ignore = "the other process of a_kill_loses_no_job_and_ends_no_job_twice"]
async fn runs_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR_VARIABLE) else { return };
    let hodei = open(Path::new(&dir)).await;
    println!("store {}", hodei.store_id().unwrap());
    for batch in 0..JOBS / 20 {
        let specs = (0..20).map(|number| spec(batch * 20 + number, Path::new(&dir))).collect();
        for job in hodei.submit_batch(specs).await.unwrap() {
            println!("ack {}", job.unwrap().id());
        }
    }
    println!("all");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_no_job_and_ends_no_job_twice() {
    let kills: u64 = std::env::var("HODEI_KILLS").map_or(5, |count| count.parse().unwrap());
    let dice = SystemIds::default();
    let (mut jobs, mut survivors) = (0, 0);
    for _ in 0..kills {
        // Mostly early, so that some kills happen while jobs are being accepted.
        let wait = Duration::from_micros((dice.fraction().powi(3) * 1_500_000.0) as u64);
        let (acknowledged, alive) = kill_and_recover(wait).await;
        jobs += acknowledged;
        survivors += alive;
    }
    println!(
        "{kills} kills: {jobs} acknowledged jobs, {survivors} processes outlived the kill and were removed"
    );
}

async fn kill_and_recover(wait: Duration) -> (usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut process = child("runs_until_it_is_killed", dir.path());
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let store = lines.find_map(|line| Some(line.strip_prefix("store ")?.to_owned())).unwrap();
    std::thread::sleep(wait);
    process.kill().unwrap();
    process.wait().unwrap();
    let left = marked(&store);
    let acknowledged: Vec<_> = lines.filter_map(|line| line.strip_prefix("ack ")?.parse().ok()).collect();

    std::fs::write(dir.path().join("over"), "").unwrap();
    let hodei = open(dir.path()).await;
    assert_eq!(hodei.store_id().unwrap().to_string(), store, "the store keeps its id");
    let start = Instant::now();
    while !marked(&store).is_disjoint(&left) {
        assert!(start.elapsed() < Duration::from_secs(5), "processes of the killed platform are still alive");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for id in &acknowledged {
        let job =
            tokio::time::timeout(Duration::from_secs(60), hodei.job(*id).wait()).await.unwrap().unwrap();
        assert_eq!(job.status(), JobStatus::Succeeded, "{id}: {:?}", job.state());
        let history = hodei.jobs().history(*id).await.unwrap();
        let endings = history.iter().filter(|event| matches!(event.event, DomainEvent::JobSucceeded { .. }));
        assert_eq!(endings.count(), 1, "{id} ended once");
        let mut last = Vec::new();
        let mut logs = hodei.jobs().logs(*id);
        while let Some(item) = logs.next().await.unwrap() {
            if let LogItem::Record { attempt, record } = item
                && attempt == job.attempt()
                && let LogBody::Chunk { bytes, .. } = record.body
            {
                last.extend(bytes);
            }
        }
        assert_eq!(String::from_utf8(last).unwrap(), format!("{id}\n"), "its output is whole");
    }
    // Jobs that were stored but not acknowledged run too.
    let statuses: Vec<_> = JobStatus::ALL.into_iter().filter(|status| !status.is_terminal()).collect();
    let open = JobFilter { statuses, ..JobFilter::default() };
    while !hodei.jobs().list(open.clone()).await.unwrap().jobs.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "jobs are still open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    hodei.shutdown().await;
    assert_eq!(marked(&store), BTreeSet::new(), "no process outlives the platform");
    (acknowledged.len(), left.len())
}

#[tokio::test]
async fn a_shutdown_requeues_killed_jobs_without_using_up_retries() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::quick();
    settings.drain_timeout = Duration::ZERO;
    let hodei = Hodei::builder().url(url(dir.path())).settings(settings).start().await.unwrap();
    let line = "[ $HODEI_ATTEMPT -gt 1 ] || sleep 600";
    let again = hodei.submit(JobSpec::shell(line).build().unwrap()).await.unwrap();
    let once = hodei.submit(JobSpec::shell(line).at_most_once().build().unwrap()).await.unwrap();
    for job in [&again, &once] {
        let mut states = hodei.jobs().watch(job.id());
        while states.next().await.unwrap().unwrap().status() != JobStatus::Running {}
    }
    let (again, once) = (again.id(), once.id());
    hodei.shutdown().await;

    let hodei = open(dir.path()).await;
    let job = hodei.job(again).wait().await.unwrap();
    assert_eq!((job.status(), job.attempt(), job.tally().uncharged), (JobStatus::Succeeded, 2, 1));
    let job = hodei.jobs().get(once).await.unwrap();
    assert_eq!((job.status(), job.attempt()), (JobStatus::Failed, 1), "it had started: {:?}", job.state());
    let Some(Outcome::Failed(cause)) = job.ending().map(|ending| &ending.outcome) else { panic!("{job:?}") };
    assert_eq!(cause.to_string(), "the platform failed: its worker was told to stop");
    hodei.shutdown().await;
}

#[tokio::test]
async fn a_data_directory_has_one_owner_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).await;
    let job = first.submit(JobSpec::command(["echo", "kept"]).build().unwrap()).await.unwrap().id();
    first.job(job).wait().await.unwrap();
    match Hodei::open(&url(dir.path())).await {
        Err(Error::Open(OpenError::InUse { holder, .. })) => assert_eq!(holder, Some(std::process::id())),
        other => panic!("a second opener got {other:?}"),
    }
    first.shutdown().await;
    let second = Hodei::builder().url(url(dir.path())).passive().start().await.unwrap();
    assert_eq!(second.jobs().get(job).await.unwrap().status(), JobStatus::Succeeded);
    let output = second.jobs().logs(job).stored().next().await.unwrap();
    assert!(format!("{output:?}").contains("kept"), "{output:?}");
}

#[tokio::test]
async fn two_platforms_in_one_process_do_not_affect_each_other() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (left, right, memory) =
        (open(one.path()).await, open(other.path()).await, Hodei::local().await.unwrap());
    let spec = || JobSpec::command(["sleep", "600"]).build().unwrap();
    let slow = left.submit(spec()).await.unwrap();
    let mut states = left.jobs().watch(slow.id());
    while states.next().await.unwrap().unwrap().status() != JobStatus::Running {}
    for platform in [&right, &memory] {
        let quick = platform.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
        assert_eq!(quick.wait().await.unwrap().status(), JobStatus::Succeeded);
        assert!(matches!(platform.jobs().get(slow.id()).await, Err(Error::NotFound(_))));
    }
    let store = left.store_id().unwrap().to_string();
    right.shutdown().await;
    memory.shutdown().await;
    assert_eq!(marked(&store).len(), 1, "the shutdown of the others does not affect it");
    // A drop without a shutdown kills its jobs.
    drop((states, slow, left));
    let start = Instant::now();
    while !marked(&store).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(5), "a job outlives its platform");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn the_end_of_the_runtime_kills_the_jobs() {
    let store = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let hodei = Hodei::local().await.unwrap();
        let job = hodei.submit(JobSpec::command(["sleep", "600"]).build().unwrap()).await.unwrap();
        let mut states = hodei.jobs().watch(job.id());
        while states.next().await.unwrap().unwrap().status() != JobStatus::Running {}
        hodei.store_id().unwrap().to_string()
    });
    let start = Instant::now();
    while !marked(&store).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(5), "a job outlives the runtime of its platform");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn an_invalid_store_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let refused = async |url: &str| match Hodei::open(url).await {
        Err(Error::Open(error)) => error.to_string(),
        other => panic!("{url} gave {other:?}"),
    };
    for wrong in ["", "x", "sqlite:", "mysql://there", "memory:x"] {
        assert!(refused(wrong).await.contains("is not a valid address of a store"), "{wrong}");
    }
    let garbage = dir.path().join("garbage");
    std::fs::create_dir(&garbage).unwrap();
    std::fs::write(
        garbage.join("hodei.db"),
        "not a database, but long enough for a header of one: ".repeat(50),
    )
    .unwrap();
    let said = refused(&url(&garbage)).await;
    assert!(said.contains("hodei.db is not a store of Hodei: it is not a database"), "{said}");

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let said = refused(&url(&file)).await;
    assert!(said.contains("file cannot be used"), "{said}");

    let others = dir.path().join("others");
    std::fs::create_dir(&others).unwrap();
    execute(&others, "CREATE TABLE customers (id INTEGER)").await;
    let said = refused(&url(&others)).await;
    assert!(said.contains("a database of another program"), "{said}");

    let newer = dir.path().join("newer");
    open(&newer).await.shutdown().await;
    execute(&newer, "UPDATE hodei SET needs = 99").await;
    let said = refused(&url(&newer)).await;
    assert!(said.contains("needs a newer Hodei: its schema is 99"), "{said}");
}

async fn execute(dir: &Path, sql: &'static str) {
    use sqlx::{Connection, Executor};
    let options =
        sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join("hodei.db")).create_if_missing(true);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    connection.execute(sql).await.unwrap();
    connection.close().await.unwrap();
}

/// A small tmpfs, unmounted when it is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts it; `None` if this process may not mount.
    fn mount() -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        let mounted = disk.command(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
        if !mounted {
            let required = std::env::var("HODEI_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.contains("mount"), "a tmpfs cannot be mounted");
            println!("skipped: a tmpfs cannot be mounted here");
        }
        mounted.then_some(disk)
    }

    fn command(&self, words: &[&str]) -> bool {
        let status =
            Command::new(words[0]).args(&words[1..]).arg(self.0.path()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.command(&["umount", "-l"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_recovers_without_a_restart() {
    let Some(disk) = SmallDisk::mount() else { return };
    let hodei = open(disk.0.path()).await;
    let specs = |count: usize| -> Vec<JobSpec> {
        let filler = "x".repeat(2000);
        let line = "echo $HODEI_JOB_ID; sleep 0.02";
        (0..count).map(|_| JobSpec::shell(line).env("FILLER", &filler).build().unwrap()).collect()
    };
    let mut acknowledged = Vec::new();
    let refusal = loop {
        assert!(acknowledged.len() < 10_000, "a disk of 1 MiB never gets full");
        match hodei.submit_batch(specs(10)).await {
            Ok(jobs) => acknowledged.extend(jobs.into_iter().map(|job| job.unwrap().id())),
            Err(error) => break error,
        }
    };
    assert!(acknowledged.len() > 10, "{refusal}");
    assert!(
        refusal.is_retryable() && refusal.to_string().contains("disk of the data directory is full"),
        "{refusal}"
    );
    assert!(matches!(refusal, Error::Store(StoreError::Unavailable { .. })));
    tokio::time::sleep(Duration::from_millis(500)).await;
    for id in &acknowledged {
        hodei.jobs().get(*id).await.unwrap();
    }
    assert!(disk.command(&["mount", "-o", "remount,size=64m"]));
    let start = Instant::now();
    let after = loop {
        match hodei.submit_batch(specs(10)).await {
            Ok(jobs) => break jobs,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(10), "{error}"),
        }
    };
    acknowledged.extend(after.into_iter().map(|job| job.unwrap().id()));
    for id in &acknowledged {
        let ended =
            tokio::time::timeout(Duration::from_secs(60), hodei.job(*id).wait()).await.unwrap().unwrap();
        assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1), "{:?}", ended.state());
        let output = hodei.jobs().logs(*id).next().await.unwrap();
        assert!(format!("{output:?}").contains(&id.to_string()), "{output:?}");
    }
    hodei.shutdown().await;
}

#[tokio::test]
async fn old_jobs_are_deleted_with_their_output() {
    let dir = tempfile::tempdir().unwrap();
    let hodei = open(dir.path()).await;
    let spec = JobSpec::command(["echo", "old"]).idempotency_key("key").build().unwrap();
    let old = hodei.submit(spec.clone()).await.unwrap();
    old.wait().await.unwrap();
    let old = old.id();
    hodei.shutdown().await;

    let mut settings = Settings::quick();
    settings.history = Duration::ZERO;
    let hodei = Hodei::builder().url(url(dir.path())).settings(settings).start().await.unwrap();
    let start = Instant::now();
    while hodei.jobs().get(old).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(5), "it is not deleted in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(matches!(hodei.jobs().history(old).await, Err(Error::NotFound(_))));
    match hodei.submit(spec).await {
        Err(Error::AlreadyExists { existing, .. }) => assert_eq!(existing, old, "the key outlives the job"),
        other => panic!("a key in use gave {other:?}"),
    }
    hodei.shutdown().await;
}

#[tokio::test]
async fn ids_chosen_by_a_caller_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let hodei = open(dir.path()).await;
    let uuid = SystemIds::default().uuid(hodei_sdk::SystemClock::default().now());
    let id = hodei_sdk::id::JobId::from_uuid(uuid);
    let spec = || JobSpec::command(["true"]).build().unwrap();
    hodei.submit_as(id, spec()).await.unwrap().wait().await.unwrap();
    hodei.shutdown().await;
    let hodei = open(dir.path()).await;
    assert_eq!(
        hodei.submit_as(id, spec()).await.unwrap().get().await.unwrap().attempt(),
        1,
        "the first job is returned"
    );
    let other = JobSpec::command(["false"]).build().unwrap();
    assert!(matches!(hodei.submit_as(id, other).await, Err(Error::AlreadyExists { .. })));
    hodei.shutdown().await;
}
