//! Signals to the daemon, to its agents, and to all processes at once.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "../../hodei-sdk/tests/support/postgres.rs"]
mod postgres;
#[path = "support/programs.rs"]
mod programs;

use std::path::Path;
use std::time::{Duration, Instant};

use hodei_sdk::id::WorkerId;
use hodei_sdk::{FailureCause, Hodei, JobHandle, JobSpec, JobStatus, Outcome, SecretValue};
use programs::{Daemon, agent_of, processes_of, program, text};
use rustix::process::{Pid, Signal, kill_process};

/// Waits until the first attempt has printed `up`; returns its worker.
async fn running(job: &JobHandle) -> WorkerId {
    let start = Instant::now();
    loop {
        let now = job.get().await.unwrap();
        if now.status() == JobStatus::Running && text_so_far(job).await.contains("up") {
            return now.worker().unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", now.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn text_so_far(job: &JobHandle) -> String {
    use hodei_sdk::LogItem;
    use hodei_sdk::port::{LogBody, LogRecord};
    let mut logs = job.logs();
    let mut text = String::new();
    while let Ok(Ok(Some(item))) = tokio::time::timeout(Duration::from_millis(50), logs.next()).await {
        if let LogItem::Record { record: LogRecord { body: LogBody::Chunk { bytes, .. }, .. }, .. } = item {
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    text
}

/// Returns the pids of a daemon, its agent and the processes of its jobs, which a service manager signals together.
fn group(daemon: &Daemon, worker: WorkerId) -> (Pid, Pid, Vec<Pid>) {
    let agent = agent_of(worker);
    let jobs = processes_of(worker).into_iter().filter_map(Pid::from_raw).filter(|pid| *pid != agent);
    (Pid::from_child(&daemon.child), agent, jobs.collect())
}

/// Sends TERM to all of them in this order: `d`aemon, `a`gent, `j`obs.
fn signal_all(group: &(Pid, Pid, Vec<Pid>), order: &str, apart: Duration) {
    for kind in order.chars() {
        let pids = match kind {
            'd' => vec![group.0],
            'a' => vec![group.1],
            _ => group.2.clone(),
        };
        for pid in pids {
            let _ = kill_process(pid, Signal::TERM);
        }
        std::thread::sleep(apart);
    }
}

/// A job whose first attempt runs the line `first`, and whose second attempt succeeds.
fn waiting(first: &str) -> JobSpec {
    let line = format!("if [ $HODEI_ATTEMPT = 1 ]; then {first}; fi; echo again");
    JobSpec::shell(line).build().unwrap()
}

async fn runs_again_free_of_charge(job: &JobHandle) {
    let ended = tokio::time::timeout(Duration::from_secs(20), job.wait()).await.unwrap().unwrap();
    let tally = ended.tally();
    assert_eq!(ended.status(), JobStatus::Succeeded, "{:?}", ended.state());
    // A daemon that gets the signal last may assign the job once more before.
    assert!((2..=3).contains(&ended.attempt()), "{:?}", ended.state());
    assert_eq!((tally.user, tally.infrastructure, tally.uncharged), (0, 0, ended.attempt() - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_term_to_all_processes_is_a_shutdown_and_costs_no_retry() {
    let at_once = Duration::ZERO;
    let cases = [
        ("daj", at_once, "stop", "echo up; sleep 60"),
        // The job dies before the agent and the daemon get the signal.
        ("jad", Duration::from_millis(30), "stop", "echo up; sleep 60"),
        ("jda", at_once, "leave", "echo up; sleep 60"),
        // The job handles the signal, and exits as shells do or with a code of its own.
        ("ajd", at_once, "stop", "trap 'exit 143' TERM; echo up; sleep 60 & wait"),
        ("daj", at_once, "stop", "trap 'echo cleanup; exit 3' TERM; echo up; sleep 60 & wait"),
    ];
    let cases = cases.map(|(order, apart, on_shutdown, first)| async move {
        let dir = tempfile::tempdir().unwrap();
        let arguments = ["--on-shutdown", on_shutdown, "--drain-timeout", "5s"];
        let mut daemon = Daemon::start(dir.path(), 0, &arguments);
        let hodei = daemon.connect(dir.path()).await;
        let job = hodei.submit(waiting(first)).await.unwrap();
        let group = group(&daemon, running(&job).await);
        signal_all(&group, order, apart);
        assert_eq!(daemon.ended(Duration::from_secs(10)), Some(0), "{order} {first}");
        let daemon = Daemon::start(dir.path(), 0, &arguments);
        let job = daemon.connect(dir.path()).await.job(job.id());
        runs_again_free_of_charge(&job).await;
    });
    for case in cases {
        case.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_costs_no_retry_on_a_shared_postgresql() {
    let Some(server) = postgres::server() else { return };
    let (dir, store) = (tempfile::tempdir().unwrap(), server.database().await);
    // With PostgreSQL, a stop leaves the workers by default.
    let mut daemon = Daemon::start(dir.path(), 0, &["--store", &store]);
    let job = daemon.connect(dir.path()).await.submit(waiting("echo up; sleep 60")).await.unwrap();
    signal_all(&group(&daemon, running(&job).await), "dja", Duration::ZERO);
    assert_eq!(daemon.ended(Duration::from_secs(15)), Some(0));
    let daemon = Daemon::start(dir.path(), 0, &["--store", &store]);
    runs_again_free_of_charge(&daemon.connect(dir.path()).await.job(job.id())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_on_postgresql_frees_its_leases() {
    let Some(server) = postgres::server() else { return };
    let (dir, store) = (tempfile::tempdir().unwrap(), server.database().await);
    let run = |hodei: Hodei| async move {
        let start = Instant::now();
        let job = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
        assert_eq!(job.wait().await.unwrap().status(), JobStatus::Succeeded);
        start.elapsed()
    };
    // Only a start with the same data directory finds workers that a stop left.
    for (round, place) in ["stop", "stop", "leave", "leave", "stop"].into_iter().enumerate() {
        let dir = dir.path().join(format!("{place}{round}"));
        let mut daemon = Daemon::start(&dir, 0, &["--store", &store, "--on-shutdown", place]);
        let took = run(daemon.connect(&dir).await).await;
        assert!(took < Duration::from_secs(3), "start {round}: the first job took {took:?}");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended(Duration::from_secs(10)), Some(0));
        let said = daemon.said.lock().unwrap().clone();
        assert!(!said.contains("another") && !said.contains("is dead"), "a lone daemon: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ends_itself_by_term_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &[]);
    let hodei = daemon.connect(dir.path()).await;
    let job = hodei.submit(JobSpec::shell("kill -TERM $$").build().unwrap()).await.unwrap();
    let ended = job.wait().await.unwrap();
    assert_eq!(ended.ending().unwrap().outcome, Outcome::Failed(FailureCause::Signal(15)));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_signals_end_neither_an_agent_nor_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), 0, &[]);
    let hodei = daemon.connect(dir.path()).await;
    let job = hodei.submit(JobSpec::shell("echo up; sleep 2; echo end").build().unwrap()).await.unwrap();
    let agent = agent_of(running(&job).await);
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::QUIT] {
        kill_process(agent, signal).unwrap();
    }
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
        daemon.signal(signal);
    }
    let ended = tokio::time::timeout(Duration::from_secs(15), job.wait()).await.unwrap().unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
    assert_eq!(text(&job).await.0, "up\nend\n");
    daemon.signal(Signal::QUIT);
    assert_eq!(daemon.ended(Duration::from_secs(10)), Some(0), "an orderly stop");
}

fn configure(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
}

/// Waits until the daemon has printed `words`.
async fn says(daemon: &Daemon, words: &str) {
    let start = Instant::now();
    while !daemon.said.lock().unwrap().contains(words) {
        assert!(start.elapsed() < Duration::from_secs(5), "the daemon did not print: {words}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reloads_the_configuration_unless_it_is_invalid() {
    let dir = tempfile::tempdir().unwrap();
    let (file, policy) = (dir.path().join("daemon.toml"), dir.path().join("policy.toml"));
    configure(&policy, "rules = []\n");
    let with = |more: &str| format!("secret_policy = \"{}\"\n{more}", policy.display());
    configure(&file, &with(""));
    let daemon = Daemon::start(dir.path(), 0, &["--config", file.to_str().unwrap()]);
    let hodei = daemon.connect(dir.path()).await;
    let value = SecretValue::new(b"secret value".to_vec()).unwrap();
    hodei.secrets().put(&"key".parse().unwrap(), value).await.unwrap();
    let wants = || JobSpec::command(["true"]).secret("key".parse().unwrap()).build().unwrap();
    assert!(hodei.submit(wants()).await.is_ok());
    configure(&policy, "[[rules]]\nsecrets = [\"key\"]\ntenants = [\"others\"]\n");
    configure(&file, &with("log_level = \"info\"\n"));
    daemon.signal(Signal::HUP);
    says(&daemon, "reloaded: log_level, secret_policy and drain_timeout").await;
    let refused = hodei.submit(wants()).await.unwrap_err().to_string();
    assert!(refused.contains("key"), "{refused}");
    configure(&file, "slots = \"many\"\n");
    daemon.signal(Signal::HUP);
    says(&daemon, "not reloaded").await;
    let job = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    assert_eq!(job.wait().await.unwrap().status(), JobStatus::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_under_nohup_keeps_ignoring_the_hangup() {
    let dir = tempfile::tempdir().unwrap();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(program("hodei-daemon"));
    let daemon = Daemon::spawn(shell, dir.path(), "127.0.0.1:0", &[], &[]);
    let hodei = daemon.connect(dir.path()).await;
    daemon.signal(Signal::HUP);
    let job = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    assert_eq!(job.wait().await.unwrap().status(), JobStatus::Succeeded);
    assert!(!daemon.said.lock().unwrap().contains("reloaded"));
}
