//! Daemons that their agents cannot reach, and stores that block: every query reports the cause and the remedy.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "../../hodei-sdk/tests/support/postgres.rs"]
mod postgres;
#[path = "support/programs.rs"]
mod programs;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use hodei_sdk::port::JobFilter;
use hodei_sdk::{JobSpec, JobStatus};
use programs::{Daemon, program};

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Creates certificates for this machine, with their own authority; returns a function from a file name to its path.
fn certs(dir: &Path) -> impl Fn(&str) -> String + use<> {
    assert!(Command::new(program("hodei-daemon")).arg("certs").arg(dir).output().unwrap().status.success());
    let dir = dir.to_owned();
    move |name| dir.join(name).display().to_string()
}

/// Starts a daemon that must exit with 1 within 20 s; returns its standard error.
fn refused(arguments: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let mut command = Command::new("timeout");
    command.arg("20").arg(program("hodei-daemon")).arg("--data-dir").arg(dir.path()).args(arguments);
    if !arguments.contains(&"--agent") {
        command.arg("--agent").arg(program("hodei-agent"));
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "after {:?}: {said}", start.elapsed());
    said
}

fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing: {text}");
    }
}

#[test]
fn certificates_that_agents_do_not_trust_are_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (own, other) = (certs(&dir.path().join("own")), certs(&dir.path().join("other")));
    let (cert, key, ca, wrong) = (own("server.pem"), own("server.key"), own("ca.pem"), other("ca.pem"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let here = ["--listen", "127.0.0.1:0"];
    // Agents trust another authority; agents trust those of this machine; the certificate has another name.
    let words =
        ["agents do not trust the server", "https://127.0.0.1:", "certificate", "`advertise`", "`tls_ca`"];
    has(&refused(&[&here[..], &tls, &["--tls-ca", &wrong]].concat()), &words);
    has(&refused(&[&here[..], &tls].concat()), &words);
    let port = free_port();
    let advertise = format!("https://127.0.0.2:{port}");
    let listen = format!("0.0.0.0:{port}");
    let everywhere = ["--listen", &listen, "--tls-ca", &ca, "--advertise", &advertise];
    has(
        &refused(&[&everywhere[..], &tls].concat()),
        &["agents do not trust the server", &advertise, "not valid for name", "`advertise`"],
    );
}

#[test]
fn a_program_that_is_not_an_agent_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    for (agent, why) in [
        (file("other", "#!/bin/sh\necho broken >&2; exit 9\n", 0o755), "exited with 9: broken"),
        (file("garbage", "\u{7f}ELF", 0o755), "Exec format error"),
        (file("plain", "#!/bin/sh\n", 0o644), "Permission denied"),
        ("/bin/true".to_owned(), "is not the program hodei-agent"),
    ] {
        has(
            &refused(&["--listen", "127.0.0.1:0", "--agent", &agent]),
            &["the agent", &agent, why, "`agent`"],
        );
    }
}

fn output(daemon: &Daemon, dir: &Path, arguments: &[&str]) -> Output {
    daemon.hodei(dir, arguments).output().unwrap()
}

fn all(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn with<'a>(tls: &[&'a str], arguments: &[&'a str]) -> Vec<&'a str> {
    [tls, arguments].concat()
}

/// Checks that every query about a waiting job reports these words.
fn is_reported(daemon: &Daemon, dir: &Path, tls: &[&str], words: &[&str]) {
    let mut run = daemon.hodei(dir, &with(tls, &["run", "--", "true"]));
    let run = run.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let submitted = output(daemon, dir, &with(tls, &["job", "submit", "--", "true"]));
    let id = String::from_utf8(submitted.stdout).unwrap().trim().to_owned();
    let start = Instant::now();
    loop {
        let explained = all(&output(daemon, dir, &with(tls, &["job", "explain", &id])));
        if words.iter().all(|word| explained.contains(word)) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{words:?} in {explained}");
        std::thread::sleep(Duration::from_millis(300));
    }
    has(&all(&output(daemon, dir, &with(tls, &["worker", "list"]))), words);
    has(&all(&output(daemon, dir, &with(tls, &["scheduler", "status"]))), words);
    has(&daemon.said.lock().unwrap(), words);
    std::thread::sleep(Duration::from_secs(7).saturating_sub(start.elapsed()));
    let pid = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = run.wait_with_output().unwrap();
    has(&all(&ran), words);
    assert_eq!(ran.status.code(), Some(130));
}

#[test]
fn an_unreachable_address_is_reported_by_every_query() {
    let (dir, tls) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = certs(tls.path());
    let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    // The address may be that of a load balancer, which leads here once this daemon is healthy, so it is not refused.
    let nowhere = format!("https://127.0.0.3:{}", free_port());
    let arguments = ["--tls-cert", &cert, "--tls-key", &key, "--tls-ca", &ca, "--advertise", &nowhere];
    let daemon = Daemon::start(dir.path(), 0, &arguments);
    let words = [nowhere.as_str(), "Connection refused", "`advertise`"];
    is_reported(&daemon, dir.path(), &["--ca-file", &ca], &words);
}

#[test]
fn a_deleted_agent_is_reported_by_every_query_and_a_new_one_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let agent = dir.path().join("the-agent");
    std::fs::copy(program("hodei-agent"), &agent).unwrap();
    let daemon = Daemon::start(dir.path(), 0, &["--agent", agent.to_str().unwrap()]);
    // Removes the agent after the check at the start.
    std::thread::sleep(Duration::from_secs(1));
    std::fs::remove_file(&agent).unwrap();
    is_reported(&daemon, dir.path(), &[], &["the-agent cannot be started", "No such file"]);
    std::fs::copy(program("hodei-agent"), &agent).unwrap();
    let ran = output(&daemon, dir.path(), &["run", "--", "echo", "again"]);
    assert_eq!((ran.status.code(), &ran.stdout[..]), (Some(0), &b"again\n"[..]), "{ran:?}");
}

#[test]
fn an_agent_that_ends_before_it_connects_is_reported_and_restarted_at_intervals() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, starts) = (dir.path().join("the-agent"), dir.path().join("starts"));
    let real = program("hodei-agent");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --check ] && exec {} \"$@\"\necho x >> {}; exit 7\n",
        real.display(),
        starts.display()
    );
    std::fs::write(&agent, script).unwrap();
    std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = Daemon::start(dir.path(), 0, &["--agent", agent.to_str().unwrap()]);
    let start = Instant::now();
    is_reported(&daemon, dir.path(), &[], &["its agent exited with 7"]);
    let count = std::fs::read_to_string(&starts).unwrap().lines().count();
    // Another worker may be ordered before the end of the first is noticed.
    let max_starts = 2 * (2 + start.elapsed().as_secs() / 5);
    assert!(count as u64 <= max_starts, "{count} starts in {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_is_reported_and_waited_for() {
    use sqlx::{Connection, Executor};
    let Some(server) = postgres::server() else { return };
    let (dir, store) = (tempfile::tempdir().unwrap(), server.database().await);
    let daemon = Daemon::start(dir.path(), 0, &["--store", &store]);
    let ran = output(&daemon, dir.path(), &["run", "--", "true"]);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let mut session = sqlx::PgConnection::connect(&store).await.unwrap();
    session.execute("BEGIN; LOCK TABLE hodei.jobs").await.unwrap();
    let mut list = daemon.hodei(dir.path(), &["job", "list"]);
    let mut run = daemon.hodei(dir.path(), &["run", "--", "echo", "after"]);
    let pipe = std::process::Stdio::piped;
    let list = list.stdout(pipe()).stderr(pipe()).spawn().unwrap();
    let run = run.stdout(pipe()).stderr(pipe()).spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    session.execute("COMMIT").await.unwrap();
    for (command, child) in [("list", list), ("run", run)] {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}: {output:?}");
        let said = all(&output);
        has(&said, &["says: ", "another session holds a lock"]);
        assert!(!said.contains("no daemon") && !said.contains("does not answer as a daemon"), "{said}");
    }
}

/// Whether this user can make namespaces; if not, prints that the test is skipped.
fn may_unshare() -> bool {
    let may = Command::new("unshare").args(["-p", "-f", "--mount-proc", "true"]).status();
    let may = may.is_ok_and(|status| status.success());
    if !may {
        eprintln!("skipped: no namespace of process ids can be made");
    }
    may
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_with_one_name_share_one_store() {
    let Some(server) = postgres::server().filter(|_| may_unshare()) else { return };
    let (dir, store) = (tempfile::tempdir().unwrap(), server.database().await);
    let arguments = ["--store", &store, "--slots", "1", "--max-workers", "1", "--daemon-lease", "1s"];
    let machine = || {
        let mut command = Command::new("unshare");
        command.args(["-p", "-f", "--kill-child", "--mount-proc"]).arg(program("hodei-daemon"));
        Daemon::spawn(command, dir.path(), "127.0.0.1:0", &arguments, &[])
    };
    let one = machine();
    let first =
        one.connect(dir.path()).await.submit(JobSpec::shell("sleep 6").build().unwrap()).await.unwrap();
    let start = Instant::now();
    while first.get().await.unwrap().status() != JobStatus::Running {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let two = machine();
    let hodei = two.connect(dir.path()).await;
    let second = hodei.submit(JobSpec::shell("sleep 2").build().unwrap()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), second.wait()).await;
    let ended = ended.expect("the second machine has room").unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
    let ended = tokio::time::timeout(Duration::from_secs(15), first.wait()).await.unwrap().unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1), "{:?}", ended.state());
    let workers = hodei.workers().list().await.unwrap();
    let providers: Vec<_> = workers.iter().filter_map(|worker| worker.reference.as_deref()).collect();
    assert!(providers.iter().any(|reference| reference.contains("-2/")), "{providers:?}");
}

/// The first signal asks the daemon to stop the job, which it cannot hear; the second ends the command.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_run_whose_daemon_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), 0, &[]);
    let mut run = daemon.hodei(dir.path(), &["run", "--", "sleep", "30"]);
    let mut run = run.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let hodei = daemon.connect(dir.path()).await;
    let start = Instant::now();
    while hodei.jobs().list(JobFilter::default()).await.unwrap().jobs.first().map(|job| job.status())
        != Some(JobStatus::Running)
    {
        assert!(start.elapsed() < Duration::from_secs(20), "the job does not start");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    daemon.kill();
    let interrupt = || {
        let pid = rustix::process::Pid::from_child(&run);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    };
    interrupt();
    tokio::time::sleep(Duration::from_millis(500)).await;
    interrupt();
    let second = Instant::now();
    let status = loop {
        if let Some(status) = run.try_wait().unwrap() {
            break status;
        }
        assert!(second.elapsed() < Duration::from_secs(5), "it goes on after a second signal");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let said = std::io::read_to_string(run.stderr.take().unwrap()).unwrap();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("since the daemon did not answer: stop it with `hodei job cancel"), "{said}");
}
