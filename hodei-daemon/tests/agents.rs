//! Agents of a daemon that are killed, stopped or starved.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "support/programs.rs"]
mod programs;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hodei_sdk::id::WorkerId;
use hodei_sdk::job::{Backoff, RetryPolicy};
use hodei_sdk::{Hodei, JobHandle, JobResources, JobSpec, JobSpecBuilder, JobStatus, LogItem};
use programs::{Daemon, agent_of, processes_of};
use rustix::process::{Signal, kill_process};

/// A short heartbeat and a short lease.
const SHORT_LEASE: [&str; 4] = ["--heartbeat", "250ms", "--lease", "1s"];

/// Submits a job whose second attempt records the surviving processes of the first in a file, and ends.
async fn submit(hodei: &Hodei, dir: &Path) -> JobHandle {
    let (seconds, alive) = (unique(), dir.join("alive"));
    // Its children leave the process group and the session, and one also clears its environment.
    let line = format!(
        "[ $HODEI_ATTEMPT = 1 ] || {{ pgrep -f '^sleep {seconds}$' > {}; echo second; exit 0; }}; echo first; \
         setsid sleep {seconds} & env -i setsid sleep {seconds} & (sleep {seconds} &) ; sleep {seconds}; echo late",
        alive.display()
    );
    hodei.submit(JobSpec::shell(line).build().unwrap()).await.unwrap()
}

/// Returns an argument of `sleep` that no other test uses.
fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    1_000_000 + u64::from(std::process::id()) * 100 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Counts the processes that sleep for that time.
fn sleepers(seconds: u64) -> usize {
    let found =
        std::process::Command::new("pgrep").args(["-f", &format!("^sleep {seconds}$")]).output().unwrap();
    found.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count()
}

async fn running(job: &JobHandle) -> WorkerId {
    let mut watch = job.get().await.unwrap();
    while watch.status() != JobStatus::Running {
        tokio::time::sleep(Duration::from_millis(20)).await;
        watch = job.get().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    watch.worker().unwrap()
}

async fn second_attempt_alone(job: &JobHandle, dir: &Path) {
    let ended = tokio::time::timeout(Duration::from_secs(30), job.wait()).await.unwrap().unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 2));
    let alive = std::fs::read_to_string(dir.join("alive")).unwrap();
    assert_eq!(alive, "", "processes of attempt 1 lived when attempt 2 started");
    assert_eq!(ended.tally().infrastructure, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_is_noticed_at_once_and_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &[]);
    let job = submit(&daemon.connect(dir.path()).await, dir.path()).await;
    let worker = running(&job).await;
    let killed = Instant::now();
    kill_process(agent_of(worker), Signal::KILL).unwrap();
    second_attempt_alone(&job, dir.path()).await;
    assert!(killed.elapsed() < Duration::from_secs(10), "before the lease ends: {:?}", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_mark_session_and_parents_ends_with_its_agent() {
    if !Path::new("/sys/fs/cgroup/pids/cgroup.procs").exists() {
        eprintln!("skipped: there are no control groups of version 1 here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &[]);
    let hodei = daemon.connect(dir.path()).await;
    let seconds = unique();
    let line =
        format!("env -i setsid -f sleep {seconds}; env -i setsid sh -c 'sleep {seconds}; :' & sleep 600");
    let job = hodei.submit(JobSpec::shell(line).at_most_once().build().unwrap()).await.unwrap();
    let worker = running(&job).await;
    assert_eq!(sleepers(seconds), 2);
    kill_process(agent_of(worker), Signal::KILL).unwrap();
    let killed = Instant::now();
    while sleepers(seconds) > 0 {
        assert!(killed.elapsed() < Duration::from_secs(3), "{} processes survive", sleepers(seconds));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::timeout(Duration::from_secs(10), job.wait()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_inherits_no_lock_from_the_daemons_caller() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("lock");
    let mut shell = std::process::Command::new("/bin/sh");
    shell
        .args(["-c", "exec 9>\"$0\"; flock 9; exec \"$@\""])
        .arg(&lock)
        .arg(programs::program("hodei-daemon"));
    let mut daemon = Daemon::spawn(shell, dir.path(), "127.0.0.1:0", &[], &[]);
    let hodei = daemon.connect(dir.path()).await;
    let job = hodei.submit(JobSpec::shell("sleep 60").build().unwrap()).await.unwrap();
    let agent = agent_of(running(&job).await);
    daemon.kill();
    assert!(rustix::process::test_kill_process(agent).is_ok(), "the agent survives its daemon");
    let free = std::process::Command::new("flock").args(["-n"]).arg(&lock).arg("true").status().unwrap();
    assert!(free.success(), "the lock is held");
    kill_process(agent, Signal::TERM).unwrap();
    kill_process(agent, Signal::TERM).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_have_the_descriptor_limit_that_their_agent_started_with() {
    let dir = tempfile::tempdir().unwrap();
    // With so many slots, the agent raises its own limit.
    let daemon = Daemon::with_files(dir.path(), "300:20000", &["--slots", "100"]);
    let hodei = daemon.connect(dir.path()).await;
    let job = hodei.submit(JobSpec::shell("ulimit -Sn; ulimit -Hn").build().unwrap()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), job.wait()).await.unwrap().unwrap();
    assert_eq!(programs::text(&job).await.0, "300\n20000\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_sets_the_start_state_of_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let said = ["--job-umask", "027", "--job-niceness", "15", "--job-oom-score-adj", "321"];
    let daemon = Daemon::start(dir.path(), 0, &said);
    let hodei = daemon.connect(dir.path()).await;
    for pids in [0, 100] {
        let line = "umask; nice; cat /proc/self/oom_score_adj";
        let limits = JobResources { pids, ..JobResources::default() };
        let job = hodei.submit(JobSpec::shell(line).resources(limits).build().unwrap()).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(20), job.wait()).await.unwrap().unwrap();
        assert_eq!(ended.status(), JobStatus::Succeeded);
        assert_eq!(programs::text(&job).await.0, "0027\n15\n321\n", "{pids}");
    }
    for (name, value, why) in [
        ("--job-umask", "9", "octal"),
        ("--job-umask", "1777", "octal"),
        ("--job-niceness", "20", "-20 to 19"),
        ("--job-oom-score-adj", "-1001", "-1000 to 1000"),
    ] {
        let output =
            std::process::Command::new(programs::program("hodei-daemon")).args([name, value]).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{name} {value}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_of_an_earlier_daemon_is_noticed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), 0, &[]);
    let job = submit(&daemon.connect(dir.path()).await, dir.path()).await;
    let worker = running(&job).await;
    let port = daemon.port();
    daemon.kill();
    let _daemon = Daemon::start(dir.path(), port, &[]);
    assert_eq!(running(&job).await, worker, "the new daemon takes over the worker");
    let killed = Instant::now();
    kill_process(agent_of(worker), Signal::KILL).unwrap();
    second_attempt_alone(&job, dir.path()).await;
    assert!(killed.elapsed() < Duration::from_secs(8), "before the lease ends: {:?}", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_stopped_beyond_its_lease_changes_nothing_when_it_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &SHORT_LEASE);
    let job = submit(&daemon.connect(dir.path()).await, dir.path()).await;
    let worker = running(&job).await;
    let agent = agent_of(worker);
    kill_process(agent, Signal::STOP).unwrap();
    second_attempt_alone(&job, dir.path()).await;
    // An error is fine: the agent may have ended.
    let _ = kill_process(agent, Signal::CONT);
    let woken = Instant::now();
    while !processes_of(worker).is_empty() {
        assert!(woken.elapsed() < Duration::from_secs(5), "{:?}", processes_of(worker));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ended = job.get().await.unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_eats_every_core_costs_no_heartbeat() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &SHORT_LEASE);
    let hodei = daemon.connect(dir.path()).await;
    let line = "for i in 1 2 3 4; do (while :; do :; done) & done; sleep 4";
    let job = hodei.submit(JobSpec::shell(line).build().unwrap()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), job.wait()).await.unwrap().unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_escape_a_job_end_with_it_and_its_worker_stays() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &[]);
    let hodei = daemon.connect(dir.path()).await;
    let seconds = unique();
    let other = hodei.submit(JobSpec::command(["sleep", "30"]).build().unwrap()).await.unwrap();
    let worker = running(&other).await;
    // One escapes by its session, one also by its parents, and two without the mark in their environment.
    let line = format!(
        "setsid sleep {seconds} & (setsid sleep {seconds} &) ; env -i setsid sleep {seconds} & \
         (env -i setsid sleep {seconds} &) ; sleep 0.3"
    );
    let job = hodei.submit(JobSpec::shell(line).build().unwrap()).await.unwrap();
    assert_eq!(job.wait().await.unwrap().status(), JobStatus::Succeeded);
    let marked = Instant::now();
    while sleepers(seconds) > 2 {
        assert!(marked.elapsed() < Duration::from_secs(5), "{} processes survive", sleepers(seconds));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Processes without a mark could belong to the other job until that ends.
    other.cancel().await.unwrap();
    other.wait().await.unwrap();
    let unmarked = Instant::now();
    while sleepers(seconds) > 0 {
        assert!(unmarked.elapsed() < Duration::from_secs(5), "{} processes survive", sleepers(seconds));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let next = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    let ended = next.wait().await.unwrap();
    assert_eq!((ended.status(), ended.worker()), (JobStatus::Succeeded, Some(worker)));
    let zombies = || {
        let agent = agent_of(worker).as_raw_nonzero().get();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
        let is_dead = format!(" Z {agent} ");
        stats.filter(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(&is_dead))).count()
    };
    let dead = Instant::now();
    while zombies() > 0 {
        assert!(dead.elapsed() < Duration::from_secs(5), "{} zombies are not reaped", zombies());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Finds the control groups of a worker's jobs.
fn groups_of(worker: WorkerId) -> String {
    let name = format!("hodei-*.{worker}.*");
    let found = std::process::Command::new("find").args(["/sys/fs/cgroup", "-name", &name]).output().unwrap();
    String::from_utf8(found.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_a_killed_agent_are_killed_with_their_control_groups() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &[]);
    let hodei = daemon.connect(dir.path()).await;
    let seconds = unique();
    // Without a mark and without a parent: only its control group shows its job.
    let line = format!("(env -i setsid sleep {seconds} &); sleep 1000");
    let limits = JobResources { pids: 20, ..JobResources::default() };
    let job = JobSpec::shell(line).resources(limits).at_most_once();
    let job = hodei.submit(job.build().unwrap()).await.unwrap();
    let worker = running(&job).await;
    assert_eq!(sleepers(seconds), 1);
    if groups_of(worker).is_empty() {
        eprintln!("skipped: no control group can be made here");
        return;
    }
    kill_process(agent_of(worker), Signal::KILL).unwrap();
    tokio::time::timeout(Duration::from_secs(30), job.wait()).await.unwrap().unwrap();
    assert_eq!((sleepers(seconds), groups_of(worker)), (0, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_a_stray_process_may_use_is_not_reused() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &[]);
    let hodei = daemon.connect(dir.path()).await;
    let beside = hodei.submit(JobSpec::command(["sleep", "30"]).build().unwrap()).await.unwrap();
    running(&beside).await;
    let stray = format!("setsid sleep {} > /dev/null 2>&1 < /dev/null &", unique());
    for (line, left) in [("true", 2), (&stray, 1)] {
        let job = hodei.submit(JobSpec::shell(line).build().unwrap()).await.unwrap();
        assert_eq!(job.wait().await.unwrap().status(), JobStatus::Succeeded);
        // Other entries are the directories for temporary files, and the journal of the agent.
        let entries = std::fs::read_dir(dir.path().join("workspaces")).unwrap();
        let (workspaces, others): (Vec<_>, Vec<_>) = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .partition(|path| path.display().to_string().contains("workspace-"));
        assert_eq!((workspaces.len(), others.len()), (left, left), "{line}");
    }
}

async fn started(arguments: &[&str]) -> ((tempfile::TempDir, Daemon), Hodei) {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, arguments);
    let hodei = daemon.connect(dir.path()).await;
    ((dir, daemon), hodei)
}

/// Whether output of an attempt of the job may be missing.
async fn is_torn(job: &JobHandle) -> bool {
    let mut logs = job.logs();
    while let Some(item) = tokio::time::timeout(Duration::from_secs(60), logs.next()).await.unwrap().unwrap()
    {
        if matches!(item, LogItem::Torn { .. }) {
            return true;
        }
    }
    false
}

/// The agent reports the end of a job that a stop ends, with its last output.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_keeps_all_output_of_the_jobs_that_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &["--drain-timeout", "100ms"]);
    keeps_output_over_a_stop(&dir, daemon).await;
}

/// As a script starts it with `&`: the shell has it ignore INT and QUIT.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_a_daemon_in_the_background_keeps_all_output_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' INT QUIT; exec \"$0\" \"$@\""]).arg(programs::program("hodei-daemon"));
    let daemon = Daemon::spawn(command, dir.path(), "127.0.0.1:0", &["--drain-timeout", "100ms"], &[]);
    keeps_output_over_a_stop(&dir, daemon).await;
}

async fn keeps_output_over_a_stop(dir: &tempfile::TempDir, mut daemon: Daemon) {
    let hodei = daemon.connect(dir.path()).await;
    let line = "echo $HODEI_ATTEMPT; [ $HODEI_ATTEMPT = 2 ] || exec sleep 60";
    let job = hodei.submit(JobSpec::shell(line).build().unwrap()).await.unwrap();
    running(&job).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(Duration::from_secs(20)), Some(0));
    let daemon = Daemon::start(dir.path(), 0, &[]);
    let job = daemon.connect(dir.path()).await.job(job.id());
    let ended = tokio::time::timeout(Duration::from_secs(60), job.wait()).await.unwrap().unwrap();
    let tally = ended.tally();
    assert_eq!((ended.status(), ended.attempt(), tally.uncharged), (JobStatus::Succeeded, 2, 1));
    assert_eq!((tally.lost, is_torn(&job).await), (0, false));
    assert_eq!(programs::text(&job).await.0, "1\n2\n");
}

/// An agent without jobs leaves by itself when its daemon stops, at the moment when the daemon destroys it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_no_files_of_its_workers() {
    for round in 0..8 {
        let ((dir, mut daemon), hodei) = started(&[]).await;
        hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap().wait().await.unwrap();
        let workers = hodei.workers().list().await.unwrap();
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended(Duration::from_secs(20)), Some(0));
        let mut left = Vec::new();
        for place in [dir.path().join("workspaces"), "/dev/shm".into()] {
            let names = std::fs::read_dir(place).into_iter().flatten().flatten();
            left.extend(names.map(|entry| entry.file_name().into_string().unwrap()));
        }
        left.retain(|name| workers.iter().any(|worker| name.contains(&worker.id.to_string())));
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
}

/// A job that kills its agent beside others: it stops after its budget, and each of them succeeds. Those that never
/// began pay nothing, also where they may start at most once.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_agent_takes_no_neighbour_along() {
    let flags = ["--heartbeat", "250ms", "--lease", "1s", "--slots", "3", "--max-workers", "1"];
    let (daemon, hodei) = started(&flags).await;
    let submit = |spec: JobSpecBuilder| async { hodei.submit(spec.build().unwrap()).await.unwrap() };
    // More short jobs than slots: some wait in the worker.
    let backoff = Backoff { initial: Duration::from_millis(50), max: Duration::from_millis(50) };
    let retry = RetryPolicy { backoff, ..RetryPolicy::default() };
    let mut neighbours = Vec::new();
    for _ in 0..2 {
        neighbours.push(submit(JobSpec::shell("sleep 1")).await);
    }
    let killer = submit(JobSpec::shell("sleep .3; kill -9 $PPID").retry(retry)).await;
    for _ in 0..6 {
        neighbours.push(submit(JobSpec::shell("sleep .1")).await);
    }
    let mut once = Vec::new();
    for _ in 0..3 {
        once.push(submit(JobSpec::shell("sleep .1").at_most_once()).await);
    }
    let ended = |job: JobHandle| async move {
        tokio::time::timeout(Duration::from_secs(60), job.wait()).await.unwrap().unwrap()
    };
    let killed = ended(killer).await;
    assert_eq!((killed.status(), killed.cause().unwrap().as_str()), (JobStatus::Failed, "lost"));
    assert_eq!((killed.tally().infrastructure, killed.attempt() <= 5), (3, true), "{:?}", killed.tally());
    let mut unstarted = 0;
    for job in neighbours {
        let is_whole = !is_torn(&job).await;
        let ended = ended(job).await;
        assert_eq!(
            (ended.status(), ended.tally().infrastructure),
            (JobStatus::Succeeded, 0),
            "{:?}",
            ended.tally()
        );
        assert!(ended.tally().lost <= 1, "a neighbour was lost twice: {:?}", ended.tally());
        if (ended.tally().lost, ended.attempt() > 1) == (0, true) {
            assert!(is_whole, "an attempt that never started has missing output");
            unstarted += 1;
        }
    }
    assert!(unstarted > 0, "some jobs waited in the killed worker");
    for job in once {
        let ended = ended(job).await;
        assert_eq!(
            (ended.status(), ended.tally().lost),
            (JobStatus::Succeeded, 0),
            "the job had not started"
        );
    }
    drop(daemon);
}

/// Whether the second attempt of the job runs.
async fn runs_its_second_attempt(job: &JobHandle) -> bool {
    let job = job.get().await.unwrap();
    (job.status(), job.attempt()) == (JobStatus::Running, 2)
}

/// Each of the long jobs may have killed the agent, so each has a trial, which takes seconds and not its whole run.
#[tokio::test(flavor = "multi_thread")]
async fn others_begin_beside_long_jobs_that_were_lost_with_their_agent() {
    let flags = ["--heartbeat", "250ms", "--lease", "1s", "--slots", "4", "--max-workers", "1"];
    let (daemon, hodei) = started(&flags).await;
    let (mut long, mut worker) = (Vec::new(), None);
    for _ in 0..2 {
        let job = hodei.submit(JobSpec::shell("sleep 120").build().unwrap()).await.unwrap();
        worker = Some(running(&job).await);
        long.push(job);
    }
    kill_process(agent_of(worker.unwrap()), Signal::KILL).unwrap();
    let start = Instant::now();
    // Then one of them is on trial.
    while !runs_its_second_attempt(&long[0]).await && !runs_its_second_attempt(&long[1]).await {
        assert!(start.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let other = hodei.submit(JobSpec::shell("echo other").build().unwrap()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), other.wait()).await.unwrap().unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
    for job in long {
        while !runs_its_second_attempt(&job).await {
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", job.get().await.unwrap().tally());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    drop(daemon);
}

/// Several jobs that kill their agent at once, before their start is reported.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_kill_their_agent_at_once_stop_after_their_budgets() {
    let flags = ["--heartbeat", "250ms", "--lease", "1s", "--slots", "4", "--max-workers", "1"];
    let (daemon, hodei) = started(&flags).await;
    let backoff = Backoff { initial: Duration::ZERO, max: Duration::ZERO };
    let (mut killers, mut others) = (Vec::new(), Vec::new());
    for number in 0..6 {
        let retry = RetryPolicy { max_infrastructure: 1, backoff: backoff.clone(), ..RetryPolicy::default() };
        let line = if number % 3 == 0 { "kill -9 $PPID" } else { "sleep .2" };
        let job = hodei.submit(JobSpec::shell(line).retry(retry).build().unwrap()).await.unwrap();
        if number % 3 == 0 { killers.push(job) } else { others.push(job) }
    }
    for job in killers {
        let ended = tokio::time::timeout(Duration::from_secs(60), job.wait()).await.unwrap().unwrap();
        assert_eq!(
            (ended.status(), ended.tally().infrastructure),
            (JobStatus::Failed, 1),
            "{:?}",
            ended.tally()
        );
    }
    for job in others {
        let ended = tokio::time::timeout(Duration::from_secs(60), job.wait()).await.unwrap().unwrap();
        assert_eq!(
            (ended.status(), ended.tally().infrastructure),
            (JobStatus::Succeeded, 0),
            "{:?}",
            ended.tally()
        );
    }
    drop(daemon);
}
