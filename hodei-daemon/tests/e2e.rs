//! The daemon end to end: real programs that are killed, stopped and started again.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "support/programs.rs"]
mod programs;

use std::process::{Command, Stdio};
use std::time::Duration;

use hodei_sdk::port::JobFilter;
use hodei_sdk::{ConnectOptions, Error, Hodei, JobSpec, JobStatus, LogItem, RefusalKind};
use programs::{Daemon, agent_of, processes_of, program, text};
use rustix::process::{Signal, kill_process};

/// Returns a number below `below`, as random as the clock.
fn chance(below: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::from(now.subsec_micros()) % below
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_outlive_a_daemon_that_is_killed() {
    let kills = std::env::var("HODEI_KILLS").map_or(5, |kills| kills.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), 0, &["--slots", "16"]);
    let port = daemon.port();
    let (mut checked, starts) = (0, dir.path().join("starts"));
    for round in 0..kills {
        let hodei = daemon.connect(dir.path()).await;
        // Some jobs run during the kill, and most wait; each records its start and prints lines while it runs.
        let line = format!(
            "echo $HODEI_JOB_ID >> {}; for i in 1 2 3 4 5; do echo line $i; sleep 0.03; done",
            starts.display()
        );
        let specs = (0..200).map(|_| JobSpec::shell(&line).build().unwrap()).collect();
        let jobs: Vec<_> = hodei.submit_batch(specs).await.unwrap().into_iter().map(Result::unwrap).collect();
        let early = jobs[0].clone();
        let follower = tokio::spawn(async move { text(&early).await });
        tokio::time::sleep(Duration::from_millis(chance(600))).await;
        daemon.kill();
        daemon = Daemon::start(dir.path(), port, &["--slots", "16"]);
        for job in &jobs {
            let ended = job.wait().await.unwrap();
            assert_eq!(
                (ended.status(), ended.attempt()),
                (JobStatus::Succeeded, 1),
                "round {round}: {ended:?}"
            );
            let (said, missing) = text(job).await;
            assert!(
                missing == 0 && said == "line 1\nline 2\nline 3\nline 4\nline 5\n",
                "round {round}: {said}"
            );
            checked += 1;
        }
        assert_eq!(
            follower.await.unwrap().0,
            "line 1\nline 2\nline 3\nline 4\nline 5\n",
            "a follower goes on through the restart"
        );
    }
    let starts = std::fs::read_to_string(starts).unwrap();
    let distinct: std::collections::BTreeSet<_> = starts.lines().collect();
    assert_eq!((starts.lines().count(), distinct.len()), (checked, checked), "each job ran once");
    println!("{kills} kills: {checked} acknowledged jobs, each ran once and lost no byte");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(Duration::from_secs(40)), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_no_process_and_the_next_start_continues_its_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), 0, &["--drain-timeout", "500ms"]);
    let hodei = daemon.connect(dir.path()).await;
    let stubborn = hodei
        .submit(
            JobSpec::shell("sleep 0.2; echo $HODEI_ATTEMPT; [ $HODEI_ATTEMPT = 2 ] || sleep 60")
                .build()
                .unwrap(),
        )
        .await
        .unwrap();
    let specs = (0..10_000).map(|_| JobSpec::command(["true"]).build().unwrap()).collect();
    let queued: Vec<_> = hodei.submit_batch(specs).await.unwrap().into_iter().map(Result::unwrap).collect();
    let mut watch = hodei.jobs().watch(stubborn.id());
    let worker = loop {
        let state = watch.next().await.unwrap().unwrap();
        if state.status() == JobStatus::Running {
            break state.worker().unwrap();
        }
    };
    let viewers: Vec<_> = (0..3)
        .map(|_| {
            let job = stubborn.clone();
            tokio::spawn(async move { job.logs().next().await.map(drop) })
        })
        .collect();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(Duration::from_secs(10)), Some(0), "the daemon stops within its drain timeout");
    assert!(processes_of(worker).is_empty(), "no process remains");
    viewers.iter().for_each(tokio::task::JoinHandle::abort);
    let port = daemon.port();
    let daemon = Daemon::start(dir.path(), port, &[]);
    let hodei = daemon.connect(dir.path()).await;
    let ended = hodei.job(stubborn.id()).wait().await.unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 2));
    assert_eq!((ended.tally().user, ended.tally().infrastructure), (0, 0), "nothing was charged");
    let explain = ["job", "explain", &stubborn.id().to_string()];
    let explain = daemon.hodei(dir.path(), &explain).output().unwrap().stdout;
    assert!(String::from_utf8(explain).unwrap().contains("no budget   stopped by the platform"));
    let last = hodei.job(queued.last().unwrap().id()).get().await.unwrap();
    assert!(last.tally().infrastructure == 0, "{last:?}");
    let failed = hodei
        .jobs()
        .list(JobFilter { statuses: vec![JobStatus::Failed], ..JobFilter::default() })
        .await
        .unwrap();
    assert!(failed.jobs.is_empty(), "{:?}", failed.jobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_finds_the_jobs_that_a_stop_left_running() {
    let dir = tempfile::tempdir().unwrap();
    let leave = ["--on-shutdown", "leave", "--drain-timeout", "0s"];
    let mut daemon = Daemon::start(dir.path(), 0, &leave);
    let hodei = daemon.connect(dir.path()).await;
    let job = hodei.submit(JobSpec::shell("echo one; sleep 1; echo two").build().unwrap()).await.unwrap();
    job.logs().next().await.unwrap().unwrap();
    let worker = job.get().await.unwrap().worker().unwrap();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(Duration::from_secs(5)), Some(0));
    assert!(!processes_of(worker).is_empty(), "its worker still runs");
    let daemon = Daemon::start(dir.path(), daemon.port(), &[]);
    let hodei = daemon.connect(dir.path()).await;
    let ended = hodei.job(job.id()).wait().await.unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
    assert_eq!(text(&hodei.job(job.id())).await, ("one\ntwo\n".into(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_works_on_a_socket_file() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", dir.path().join("hodei.sock").display());
    let mut daemon = Daemon::listen(dir.path(), &address, &[]);
    assert_eq!(daemon.url, address);
    // The socket file of a killed daemon does not prevent a start.
    daemon.kill();
    let mut daemon = Daemon::listen(dir.path(), &address, &[]);
    let run = daemon.hodei(dir.path(), &["run", "--", "echo", "hello"]).output().unwrap();
    assert_eq!((run.status.code(), run.stdout), (Some(0), b"hello\n".to_vec()), "{:?}", run.stderr);
    let other = tempfile::tempdir().unwrap();
    let second = Command::new(program("hodei-daemon"))
        .args(["--data-dir", other.path().to_str().unwrap(), "--listen", &address])
        .output()
        .unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(second.status.code() == Some(1) && said.contains("is another daemon running?"), "{said}");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(Duration::from_secs(40)), Some(0));
    assert!(!dir.path().join("hodei.sock").exists(), "the daemon removes its socket");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_follower_gets_the_same_bytes_once_through_stops_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), 0, &[]);
    let hodei = daemon.connect(dir.path()).await;
    let line = "sleep 0.3; for i in $(seq 40); do echo line $i; echo err $i >&2; sleep 0.05; done";
    let job = hodei.submit(JobSpec::shell(line).build().unwrap()).await.unwrap();
    let id = job.id().to_string();
    let follow = |daemon: &Daemon| {
        let mut command = daemon.hodei(dir.path(), &["job", "logs", "-f", &id]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let before = follow(&daemon);
    job.logs().next().await.unwrap().unwrap();
    let during = follow(&daemon);
    tokio::time::sleep(Duration::from_millis(500)).await;
    daemon.kill();
    let daemon = Daemon::start(dir.path(), daemon.port(), &[]);
    let later = follow(&daemon);
    let ended = daemon.connect(dir.path()).await.job(job.id()).wait().await.unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
    let after = follow(&daemon);
    let lines = |word: &str| (1..=40).map(|i| format!("{word} {i}\n")).collect::<String>();
    for (when, follower) in [("before", before), ("during", during), ("later", later), ("after", after)] {
        let seen = follower.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        assert_eq!((text(seen.stdout), text(seen.stderr)), (lines("line"), lines("err")), "{when}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_told_that_their_daemon_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), 0, &[]);
    let hodei = daemon.connect(dir.path()).await;
    let job = hodei.submit(JobSpec::command(["sleep", "1"]).build().unwrap()).await.unwrap();
    let mut command = daemon.hodei(dir.path(), &["job", "wait", &job.id().to_string()]);
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    daemon.kill();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let daemon = Daemon::start(dir.path(), daemon.port(), &[]);
    let waited = waiting.wait_with_output().unwrap();
    let said = String::from_utf8(waited.stderr).unwrap();
    assert_eq!(waited.status.code(), Some(0), "{said}");
    assert_eq!(String::from_utf8(waited.stdout).unwrap(), format!("{} SUCCEEDED\n", job.id()));
    let told = format!("the daemon at {} does not answer: trying again for up to 30s", daemon.url);
    assert_eq!(said.matches(&told).count(), 1, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stops_reading_stalls_no_job() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &[]);
    let hodei = daemon.connect(dir.path()).await;
    let size = 64_000_000;
    let loud = JobSpec::shell(format!("sleep 0.3; head -c {size} /dev/zero")).build().unwrap();
    let job = hodei.submit(loud).await.unwrap();
    let mut command = daemon.hodei(dir.path(), &["job", "logs", "-f", &job.id().to_string()]);
    let mut stalled = command.stdout(Stdio::piped()).spawn().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), job.wait()).await.unwrap().unwrap();
    assert_eq!(ended.status(), JobStatus::Succeeded);
    assert_eq!(text(&job).await.0.len(), size, "another follower gets the whole output");
    assert!(stalled.try_wait().unwrap().is_none(), "the stalled follower still has output to print");
    stalled.kill().unwrap();
    stalled.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_says_why_it_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let first = Daemon::start(dir.path(), 0, &[]);
    let refused = |arguments: &[&str]| {
        let agent = program("hodei-agent");
        let mut command = Command::new(program("hodei-daemon"));
        command.args(["--agent", agent.to_str().unwrap()]).args(arguments).stdin(Stdio::null());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let path = dir.path().to_str().unwrap();
    let other = tempfile::tempdir().unwrap();
    let taken = format!("127.0.0.1:{}", first.port());
    for (arguments, words) in [
        (&["--data-dir", path, "--listen", "127.0.0.1:0"][..], &["is in use by process"][..]),
        (&["--data-dir", other.path().to_str().unwrap(), "--listen", &taken], &[&taken[..], "--listen"]),
        (&["--data-dir", "/proc/nowhere", "--listen", "127.0.0.1:0"], &["/proc/nowhere"]),
        (&["--listen", "0.0.0.0:0"], &["0.0.0.0:0", "--insecure"]),
        (
            &["--store", "oracle:x", "--data-dir", other.path().to_str().unwrap(), "--listen", "127.0.0.1:0"],
            &["oracle:x"],
        ),
        (&["--config", "/nowhere.toml"], &["/nowhere.toml"]),
    ] {
        let (code, said) = refused(arguments);
        assert!(
            code == Some(1) && words.iter().all(|word| said.contains(word)),
            "{arguments:?}: {code:?} {said}"
        );
    }
    assert!(
        matches!(Hodei::connect(&first.url).await, Err(Error::Refused(refused)) if refused.kind == RefusalKind::Unauthenticated)
    );
    first.connect(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_beyond_the_spool_limit_is_a_gap_and_costs_no_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["--spool-limit", "1000000", "--job-log-dir", "/proc/none"];
    let mut daemon = Daemon::start(dir.path(), 0, &arguments);
    let (go, written) = (dir.path().join("go"), dir.path().join("written"));
    let line = format!(
        "echo first; while [ ! -e {} ]; do sleep 0.02; done; head -c 20000000 /dev/zero | tr '\\0' x; touch {}; \
         while [ -e {} ]; do sleep 0.02; done; echo last",
        go.display(),
        written.display(),
        go.display()
    );
    let hodei = daemon.connect(dir.path()).await;
    let job = hodei.submit(JobSpec::shell(line).build().unwrap()).await.unwrap();
    assert!(matches!(job.logs().next().await.unwrap(), Some(LogItem::Record { .. })), "the job runs");
    daemon.kill();
    std::fs::write(&go, "").unwrap();
    let is_written = async {
        while !written.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_written)
        .await
        .expect("the job is blocked by its output");
    let again = Daemon::start(dir.path(), daemon.port(), &arguments);
    let hodei = again.connect(dir.path()).await;
    std::fs::remove_file(&go).unwrap();
    let job = hodei.job(job.id());
    let ended = tokio::time::timeout(Duration::from_secs(20), job.wait()).await.unwrap().unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
    let (text, missing) = text(&job).await;
    assert!(missing > 0, "missing output is a gap");
    assert!(
        text.starts_with("first\n") && text.ends_with("last\n") && text.len() < 10_000_000,
        "{}",
        text.len()
    );
}

/// Standard error may be a file on a full disk, or a pipe whose reader is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_standard_error_works_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (agent, at) = (program("hodei-agent"), format!("127.0.0.1:{port}"));
    let mut daemon = Command::new(program("hodei-daemon"))
        .arg("--data-dir")
        .arg(dir.path())
        .args(["--listen", &at, "--log-level", "info", "--agent", agent.to_str().unwrap()])
        .stderr(full)
        .spawn()
        .unwrap();
    let hodei = loop {
        let options = ConnectOptions::new(format!("http://{at}"));
        let token_file = Some(dir.path().join("token"));
        match Hodei::connect_with(ConnectOptions { token_file, ..options }).await {
            Ok(hodei) => break hodei,
            Err(_) if daemon.try_wait().unwrap().is_none() => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    let job = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), job.wait()).await.unwrap().unwrap();
    assert_eq!(ended.status(), JobStatus::Succeeded);
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert!(processes_of(ended.worker().unwrap()).is_empty(), "its agent has ended");
}

/// Nests 20,000 directories; the path of the lowest is too long to be used.
const DEEP: &str = "p=$(printf 'd/%.0s' $(seq 2000)); \
                    for i in 1 2 3 4 5 6 7 8 9 10; do mkdir -p $p && cd -P $p || exit 1; done; echo > file";

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_removed_end_neither_daemon_nor_agent_nor_a_start() {
    // In memory, since 20,000 directories on a disk may take a minute.
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.unwrap();
    let workspaces = dir.path().join("workspaces");
    let mut daemon = Daemon::start(dir.path(), 0, &[]);
    let hodei = daemon.connect(dir.path()).await;
    let run = async |line: &str| {
        let job = hodei.submit(JobSpec::shell(line).build().unwrap()).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(30), job.wait()).await.unwrap().unwrap();
        assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1), "{ended:?}");
        ended.worker().unwrap()
    };
    let worker = run(DEEP).await;
    // Without the right to make a file immutable, this tests less. The hard link elsewhere keeps the file immutable.
    let other = dir.path().join("other");
    let mark = format!("echo > kept && ln kept {} && chattr +i kept", other.display());
    assert_eq!(run(&format!("{{ {mark}; }} || true; mkdir -p x/y")).await, worker, "the agent survives");
    // After a kill, the next start has to remove this workspace.
    let running = hodei.submit(JobSpec::shell(format!("{DEEP}; sleep 60")).build().unwrap()).await.unwrap();
    while running.get().await.unwrap().status() != JobStatus::Running {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    kill_process(agent_of(worker), Signal::KILL).unwrap();
    daemon.kill();
    let port = daemon.port();
    let started = std::time::Instant::now();
    let daemon = Daemon::start(dir.path(), port, &[]);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let hodei = daemon.connect(dir.path()).await;
    running.cancel().await.ok();
    let job = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), job.wait()).await.unwrap().unwrap();
    assert_eq!(ended.status(), JobStatus::Succeeded);
    let of_earlier = || {
        let names = std::fs::read_dir(&workspaces).unwrap().flatten().map(|entry| entry.path());
        names.filter(|path| path.to_string_lossy().contains(&worker.to_string())).collect::<Vec<_>>()
    };
    let is_immutable = other.exists() && std::fs::remove_file(&other).is_err();
    for _ in 0..1000 {
        if of_earlier().len() <= usize::from(is_immutable) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(of_earlier().len(), usize::from(is_immutable), "{:?}", of_earlier());
    if is_immutable {
        let kept = of_earlier()[0].join("kept");
        let said = daemon.said.lock().unwrap().clone();
        assert!(kept.exists() && said.contains(&kept.display().to_string()), "{said}");
        assert_eq!(std::fs::read_dir(&of_earlier()[0]).unwrap().count(), 1, "the rest is gone");
        assert!(Command::new("chattr").arg("-i").arg(&kept).status().unwrap().success());
    }
}
