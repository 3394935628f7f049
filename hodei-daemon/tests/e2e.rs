//! The daemon as a user has it: real programs that are killed, stopped and started again.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hodei_sdk::port::{JobFilter, LogBody};
use hodei_sdk::{ConnectOptions, Error, Hodei, JobHandle, JobSpec, JobStatus, LogItem};
use rustix::process::{Pid, Signal, kill_process};

/// A program of the workspace, as cargo builds it beside the tests.
fn program(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_hodei-daemon")).with_file_name(name);
    assert!(program.is_file(), "{} is not built: run `cargo build --workspace`", program.display());
    program
}

/// A daemon that is killed when the test ends, and its agents after their orphan timeout.
struct Daemon {
    child: Child,
    url: String,
}

impl Daemon {
    fn start(dir: &Path, port: u16, arguments: &[&str]) -> Self {
        let mut child = Command::new(program("hodei-daemon"))
            .arg("--data-dir")
            .arg(dir)
            .args(["--listen", &format!("127.0.0.1:{port}"), "--orphan-timeout", "20s"])
            .arg("--agent")
            .arg(program("hodei-agent"))
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.next().unwrap_or_else(|| panic!("the daemon said nothing")).unwrap();
        let url = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        // Its agents write there too: somebody has to read.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url }
    }

    fn port(&self) -> u16 {
        self.url.rsplit(':').next().unwrap().parse().unwrap()
    }

    async fn connect(&self, dir: &Path) -> Hodei {
        let token_file = Some(dir.join("token"));
        Hodei::connect_with(ConnectOptions { token_file, ..ConnectOptions::new(&self.url) }).await.unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit code, within a limit.
    fn ended(&mut self, limit: Duration) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < limit, "the daemon still runs after {limit:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn output(job: &JobHandle) -> (String, bool) {
    let (mut text, mut whole, mut logs) = (Vec::new(), true, job.logs());
    while let Some(item) = logs.next().await.unwrap() {
        match item {
            LogItem::Record { record, .. } => match record.body {
                LogBody::Chunk { bytes, .. } => text.extend_from_slice(&bytes),
                LogBody::Gap(_) => whole = false,
            },
            LogItem::Torn { .. } => whole = false,
        }
    }
    (String::from_utf8(text).unwrap(), whole)
}

/// Numbers that are as random as the clock.
fn chance(below: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::from(now.subsec_micros()) % below
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_outlive_a_daemon_that_is_killed() {
    let kills = std::env::var("HODEI_KILLS").map_or(5, |kills| kills.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), 0, &[]);
    let port = daemon.port();
    let (mut checked, starts) = (0, dir.path().join("starts"));
    for round in 0..kills {
        let hodei = daemon.connect(dir.path()).await;
        // Some run through the kill, most wait; each notes its start and prints as it goes.
        let line = format!(
            "echo $HODEI_JOB_ID >> {}; for i in 1 2 3 4 5; do echo line $i; sleep 0.03; done",
            starts.display()
        );
        let specs = (0..200 / 4).map(|_| JobSpec::shell(&line).build().unwrap()).collect();
        let jobs: Vec<_> = hodei.submit_batch(specs).await.unwrap().into_iter().map(Result::unwrap).collect();
        let early = jobs[0].clone();
        let follower = tokio::spawn(async move { output(&early).await });
        tokio::time::sleep(Duration::from_millis(chance(600))).await;
        daemon.child.kill().unwrap();
        daemon.child.wait().unwrap();
        daemon = Daemon::start(dir.path(), port, &[]);
        for job in &jobs {
            let ended = job.wait().await.unwrap();
            assert_eq!(
                (ended.status(), ended.attempt()),
                (JobStatus::Succeeded, 1),
                "round {round}: {ended:?}"
            );
            let (text, whole) = output(job).await;
            assert!(whole && text == "line 1\nline 2\nline 3\nline 4\nline 5\n", "round {round}: {text}");
            checked += 1;
        }
        assert_eq!(
            follower.await.unwrap().0,
            "line 1\nline 2\nline 3\nline 4\nline 5\n",
            "through the restart"
        );
    }
    let starts = std::fs::read_to_string(starts).unwrap();
    let distinct: std::collections::BTreeSet<_> = starts.lines().collect();
    assert_eq!((starts.lines().count(), distinct.len()), (checked, checked), "each ran once");
    println!("{kills} kills: {checked} acknowledged jobs, each ran once and lost no byte");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(Duration::from_secs(40)), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_no_child_and_its_jobs_go_on_later() {
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
    let mut watch = hodei.watch(stubborn.id());
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
    assert_eq!(daemon.ended(Duration::from_secs(10)), Some(0), "within its limit");
    let mark = format!("HODEI_WORKER_ID={worker}");
    let alive = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    });
    assert_eq!(alive.count(), 0, "no child is left");
    viewers.iter().for_each(tokio::task::JoinHandle::abort);
    let port = daemon.port();
    let daemon = Daemon::start(dir.path(), port, &[]);
    let hodei = daemon.connect(dir.path()).await;
    let ended = hodei.job(stubborn.id()).wait().await.unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 2));
    assert_eq!((ended.tally().user, ended.tally().infrastructure), (0, 0), "nothing was charged");
    let last = hodei.job(queued.last().unwrap().id()).get().await.unwrap();
    assert!(last.tally().infrastructure == 0, "{last:?}");
    let failed =
        hodei.list(JobFilter { statuses: vec![JobStatus::Failed], ..JobFilter::default() }).await.unwrap();
    assert!(failed.jobs.is_empty(), "{:?}", failed.jobs);
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
    assert!(matches!(Hodei::connect(&first.url).await, Err(Error::Refused(refused)) if refused.code == 16));
    first.connect(dir.path()).await;
}
