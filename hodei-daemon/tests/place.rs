//! The place of a store: copies, removed files, moved directories and new addresses under a daemon.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "../../hodei-sdk/tests/support/postgres.rs"]
mod postgres;
#[path = "support/programs.rs"]
mod programs;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hodei_sdk::id::WorkerId;
use hodei_sdk::time::Timestamp;
use hodei_sdk::{Hodei, JobHandle, JobSpec, JobStatus};
use programs::{Daemon, processes_of, program};
use rustix::process::Signal;

fn shell(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// Starts a daemon that must refuse to start; returns its standard error.
fn refused(dir: &Path) -> String {
    let agent = program("hodei-agent");
    let mut command = Command::new(program("hodei-daemon"));
    command.arg("--data-dir").arg(dir).args(["--listen", "127.0.0.1:0", "--agent", agent.to_str().unwrap()]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn adopt(dir: &Path) -> (Option<i32>, String) {
    let output = Command::new(program("hodei-daemon")).arg("adopt").arg(dir).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

async fn submit(hodei: &Hodei, line: &str) -> JobHandle {
    hodei.submit(JobSpec::shell(line).build().unwrap()).await.unwrap()
}

async fn running(job: &JobHandle) -> WorkerId {
    loop {
        let state = job.get().await.unwrap();
        if state.status() == JobStatus::Running {
            return state.worker().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ended(job: &JobHandle) -> (JobStatus, u32) {
    let ended = tokio::time::timeout(Duration::from_secs(30), job.wait()).await.unwrap().unwrap();
    (ended.status(), ended.attempt())
}

fn stop(daemon: &mut Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(Duration::from_secs(20)), Some(0), "{}", daemon.said.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_refused_until_adopted_and_harms_no_job_of_the_original() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    let first = Daemon::start(&a, 0, &[]);
    let hodei = first.connect(&a).await;
    let job = submit(&hodei, "sleep 4; echo done").await;
    running(&job).await;
    shell(&format!("cp -a {} {}", a.display(), b.display()));
    let said = refused(&b);
    assert!(said.contains("a copy of") && said.contains("hodei-daemon adopt"), "{said}");
    let (code, said) = adopt(&b);
    assert!(code == Some(0) && said.contains("is now store"), "{said}");
    let second = Daemon::start(&b, 0, &[]);
    let copy = second.connect(&b).await;
    let other = submit(&copy, "true").await;
    assert_eq!(ended(&other).await, (JobStatus::Succeeded, 1));
    assert_eq!(ended(&job).await, (JobStatus::Succeeded, 1), "the original's job was not touched");
    assert_eq!(ended(&copy.job(job.id())).await.0, JobStatus::Succeeded, "the copy runs it for itself");
    // A link is not a copy: it leads to the database of a running daemon.
    let linked = root.path().join("linked");
    std::fs::create_dir(&linked).unwrap();
    std::os::unix::fs::symlink(a.join("hodei.db"), linked.join("hodei.db")).unwrap();
    assert!(refused(&linked).contains(&format!("process {}", first.child.id())));
    assert!(adopt(root.path()).1.contains("hodei.db is missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_or_restored_store_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let (a, b, kept) = (root.path().join("a"), root.path().join("b"), root.path().join("kept"));
    let mut daemon = Daemon::start(&a, 0, &["--on-shutdown", "leave", "--drain-timeout", "0s"]);
    let hodei = daemon.connect(&a).await;
    let early = submit(&hodei, "true").await;
    ended(&early).await;
    let job = submit(&hodei, "sleep 3; echo done").await;
    running(&job).await;
    stop(&mut daemon);
    std::fs::rename(&a, &b).unwrap();
    // Its agents look in the former directory, and at the address that they were given.
    let mut daemon = Daemon::start(&b, daemon.port(), &[]);
    let hodei = daemon.connect(&b).await;
    assert_eq!(ended(&hodei.job(job.id())).await, (JobStatus::Succeeded, 1), "by its former worker");
    stop(&mut daemon);
    // Restores a backup after the original is gone.
    shell(&format!("cp -a {} {} && rm -rf {}", b.display(), kept.display(), b.display()));
    shell(&format!("cp -a {} {} && rm -rf {}", kept.display(), b.display(), kept.display()));
    let daemon = Daemon::start(&b, 0, &[]);
    let hodei = daemon.connect(&b).await;
    assert_eq!(hodei.job(early.id()).get().await.unwrap().status(), JobStatus::Succeeded);
    assert_eq!(ended(&submit(&hodei, "true").await).await, (JobStatus::Succeeded, 1));
    assert!(daemon.said.lock().unwrap().contains("becomes a store of its own"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_removed_under_a_daemon_cost_no_acknowledged_job() {
    for removed in ["hodei.db*", "hodei.db", "hodei.db-wal", "hodei.db-shm", "hodei.lock"] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        let mut daemon = Daemon::start(&dir, 0, &[]);
        let hodei = daemon.connect(&dir).await;
        let before = submit(&hodei, "true").await;
        assert_eq!(ended(&before).await, (JobStatus::Succeeded, 1));
        shell(&format!("rm {}/{removed}", dir.display()));
        if removed == "hodei.lock" {
            assert!(refused(&dir).contains(&format!("is in use by process {}", daemon.child.id())));
        }
        let mut acknowledged = vec![before.id()];
        for _ in 0..3 {
            let spec = JobSpec::command(["true"]).build().unwrap();
            match tokio::time::timeout(Duration::from_secs(3), hodei.submit(spec)).await {
                Ok(Ok(job)) => acknowledged.push(job.id()),
                Ok(Err(error)) => assert!(error.to_string().contains(&removed[..8]), "{removed}: {error}"),
                Err(_) => {}
            }
        }
        if ["hodei.db-shm", "hodei.lock"].contains(&removed) {
            assert_eq!(acknowledged.len(), 4, "{removed} is only needed by others");
            stop(&mut daemon);
        } else {
            assert_eq!(daemon.ended(Duration::from_secs(10)), Some(1), "{removed}");
            let said = daemon.said.lock().unwrap().clone();
            assert!(said.contains("was removed or replaced") && said.contains("is saved in"), "{said}");
        }
        let again = Daemon::start(&dir, 0, &[]);
        let hodei = again.connect(&dir).await;
        for id in acknowledged {
            assert_eq!(ended(&hodei.job(id)).await.0, JobStatus::Succeeded, "{removed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_directory_or_a_replaced_database_stops_its_daemon() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    let mut daemon = Daemon::start(&a, 0, &[]);
    let hodei = daemon.connect(&a).await;
    let before = submit(&hodei, "true").await;
    ended(&before).await;
    std::fs::rename(&a, &b).unwrap();
    let spec = || JobSpec::command(["true"]).build().unwrap();
    let late = tokio::time::timeout(Duration::from_secs(3), hodei.submit(spec())).await;
    assert!(!matches!(late, Ok(Ok(_))), "a submit must not go to the former place");
    assert_eq!(daemon.ended(Duration::from_secs(10)), Some(1));
    let mut daemon = Daemon::start(&b, 0, &[]);
    let hodei = daemon.connect(&b).await;
    assert_eq!(hodei.job(before.id()).get().await.unwrap().status(), JobStatus::Succeeded);
    // A database that replaced this one is not touched; the daemon saves its own beside it.
    std::fs::write(b.join("other"), "").unwrap();
    std::fs::rename(b.join("other"), b.join("hodei.db")).unwrap();
    let late = tokio::time::timeout(Duration::from_secs(3), hodei.submit(spec())).await;
    assert!(!matches!(late, Ok(Ok(_))));
    assert_eq!(daemon.ended(Duration::from_secs(10)), Some(1));
    assert_eq!(b.join("hodei.db").metadata().unwrap().len(), 0);
    assert!(b.join("hodei.db.saved").metadata().unwrap().len() > 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_database_stops_its_daemon() {
    for (file, bytes) in [("hodei.db", 0), ("hodei.db", 4096), ("hodei.db", 10_000), ("hodei.db-wal", 0)] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        let mut daemon = Daemon::start(&dir, 0, &[]);
        let hodei = daemon.connect(&dir).await;
        ended(&submit(&hodei, "true").await).await;
        // From here on, the database file has everything.
        stop(&mut daemon);
        let mut daemon = Daemon::start(&dir, 0, &[]);
        let hodei = daemon.connect(&dir).await;
        ended(&submit(&hodei, "true").await).await;
        // Not during a write, which would make a truncated log long again.
        tokio::time::sleep(Duration::from_millis(500)).await;
        std::fs::File::options().write(true).open(dir.join(file)).unwrap().set_len(bytes).unwrap();
        let spec = JobSpec::command(["true"]).build().unwrap();
        let late = tokio::time::timeout(Duration::from_secs(3), hodei.submit(spec)).await;
        assert!(!matches!(late, Ok(Ok(_))), "{file} of {bytes} bytes: a later start would not find the job");
        assert_eq!(daemon.ended(Duration::from_secs(10)), Some(1), "{file} of {bytes} bytes");
        let said = daemon.said.lock().unwrap().clone();
        assert!(said.contains(&format!("{file} was cut short")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_on_in_a_renamed_directory_served_at_another_address() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    let mut first = Daemon::start(&a, 0, &["--on-shutdown", "leave", "--drain-timeout", "0s"]);
    let hodei = first.connect(&a).await;
    let spec = JobSpec::shell("sleep 3").at_most_once().build().unwrap();
    let job = hodei.submit(spec).await.unwrap();
    running(&job).await;
    stop(&mut first);
    std::fs::rename(&a, &b).unwrap();
    let second = Daemon::start(&b, 0, &[]);
    assert_eq!(ended(&second.connect(&b).await.job(job.id())).await, (JobStatus::Succeeded, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_copy_of_a_database_leaves_the_workers_of_its_original_alone() {
    let Some(server) = postgres::server() else { return };
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    let (original, copy) = (server.database().await, server.database().await);
    let flags = |store| ["--store", store, "--heartbeat", "250ms", "--lease", "1s", "--slots", "2"];
    let first = Daemon::start(&a, 0, &flags(&original));
    let hodei = first.connect(&a).await;
    let job = submit(&hodei, "sleep 6").await;
    let worker = running(&job).await;
    let (dump, psql) = (postgres::program("pg_dump"), postgres::program("psql"));
    let (dump, psql) = (dump.display(), psql.display());
    shell(&format!("{dump} {original} | {psql} -q -v ON_ERROR_STOP=1 {copy} >/dev/null"));
    let second = Daemon::start(&b, 0, &flags(&copy));
    // The copy gives up the worker, which is not its own, and runs its job on another worker.
    let copied = second.connect(&b).await.job(job.id());
    let start = Instant::now();
    while copied.get().await.unwrap().worker().is_none_or(|now| now == worker) {
        assert!(start.elapsed() < Duration::from_secs(20), "the copy waits for the worker of the original");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!processes_of(worker).is_empty(), "the worker of the original was killed");
    assert_eq!(ended(&job).await, (JobStatus::Succeeded, 1));
    assert_eq!(ended(&copied).await.0, JobStatus::Succeeded);
    assert!(first.said.lock().unwrap().lines().all(|line| !line.contains("without an open order")));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_removed_under_a_daemon_is_written_back() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    let mut daemon = Daemon::start(&dir, 0, &[]);
    let hodei = daemon.connect(&dir).await;
    let before = submit(&hodei, "echo kept").await;
    assert_eq!(ended(&before).await, (JobStatus::Succeeded, 1));
    shell(&format!("rm -r {}/logs", dir.display()));
    let late = submit(&hodei, "echo late").await;
    assert_eq!(daemon.ended(Duration::from_secs(10)), Some(1));
    let daemon = Daemon::start(&dir, 0, &[]);
    let hodei = daemon.connect(&dir).await;
    assert_eq!(ended(&hodei.job(late.id())).await.0, JobStatus::Succeeded);
    assert_eq!(programs::text(&hodei.job(before.id())).await, ("kept\n".to_owned(), 0));
    assert_eq!(programs::text(&hodei.job(late.id())).await, ("late\n".to_owned(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_on_when_their_daemon_comes_back_at_another_address() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    let socket = format!("unix:{}", root.path().join("sock").display());
    let short = ["--heartbeat", "250ms", "--lease", "5s"];
    let mut daemon = Daemon::listen(&dir, "127.0.0.1:0", &short);
    let hodei = daemon.connect(&dir).await;
    let job = submit(&hodei, "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 1; done").await;
    let worker = running(&job).await;
    let addresses = [daemon.url.clone(), daemon.url.clone()];
    for (address, before) in [socket.as_str(), "127.0.0.1:0"].iter().zip(addresses) {
        daemon.kill();
        daemon = Daemon::listen(&dir, address, &short);
        assert_ne!(daemon.url, before);
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    let hodei = daemon.connect(&dir).await;
    let job = hodei.job(job.id());
    assert_eq!(ended(&job).await, (JobStatus::Succeeded, 1), "the same run");
    assert_eq!(programs::text(&job).await, ("1\n2\n3\n4\n5\n6\n7\n8\n".to_owned(), 0));
    stop(&mut daemon);
    assert!(processes_of(worker).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_leaves_one_database_file() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    let mut daemon = Daemon::start(&dir, 0, &[]);
    let hodei = daemon.connect(&dir).await;
    let job = submit(&hodei, "true").await;
    ended(&job).await;
    stop(&mut daemon);
    let names = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("hodei.db"));
    assert_eq!(names, ["hodei.db"]);
    // The file is complete without the others.
    let other = root.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::rename(dir.join("hodei.db"), other.join("hodei.db")).unwrap();
    let daemon = Daemon::start(&other, 0, &[]);
    let hodei = daemon.connect(&other).await;
    assert_eq!(hodei.job(job.id()).get().await.unwrap().status(), JobStatus::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_stopped_in_a_copy_goes_on_in_the_original() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    let first = Daemon::start(&a, 0, &[]);
    let hodei = first.connect(&a).await;
    let soon = SystemTime::now() + Duration::from_secs(3);
    let soon = Timestamp::from_micros(soon.duration_since(UNIX_EPOCH).unwrap().as_micros() as i64);
    // Both stores start the same attempt number of the job.
    let spec = JobSpec::shell("sleep 60").not_before(soon).build().unwrap();
    let job = hodei.submit(spec).await.unwrap();
    shell(&format!("cp -a {} {}", a.display(), b.display()));
    assert_eq!(adopt(&b).0, Some(0));
    let second = Daemon::start(&b, 0, &[]);
    let copy = second.connect(&b).await.job(job.id());
    running(&job).await;
    running(&copy).await;
    copy.cancel().await.unwrap();
    assert_eq!(ended(&copy).await, (JobStatus::Cancelled, 1));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(job.get().await.unwrap().status(), JobStatus::Running, "the original's job was not touched");
    job.cancel().await.unwrap();
    assert_eq!(ended(&job).await, (JobStatus::Cancelled, 1));
}
