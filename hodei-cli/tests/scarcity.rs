//! `hodei run` without enough processes or descriptors, or with its store removed: it ends and says why.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Returns the output of a program that must end within `limit`.
fn output_within(limit: Duration, mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > limit {
            child.kill().unwrap();
            panic!("the program still runs: {:?}", child.wait_with_output().unwrap());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn start(program: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").env("TMPDIR", "/tmp");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_run_whose_store_is_taken_away_ends_and_says_so() {
    for change in ["rm $D/hodei.db*", "rm $D/hodei.db-wal", "mv $D $D.away", ": > $D/hodei.db-wal"] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d");
        let dir = dir.to_str().unwrap();
        let run = ["run", "--data-dir", dir, "--shell", "echo up; sleep 2; echo done"];
        let mut child = start(env!("CARGO_BIN_EXE_hodei"), &run);
        // The job has started.
        let mut up = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut up).unwrap();
        let changed = Command::new("sh").args(["-c", change]).env("D", dir).status().unwrap();
        assert!(changed.success(), "{change}");
        let output = output_within(Duration::from_secs(20), child);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{change}: {said}");
        assert!(said.contains("hodei.db") && said.contains("has stopped"), "{change}: {said}");
    }
}

#[test]
fn a_run_with_few_processes_ends_with_its_own_code() {
    let hodei = env!("CARGO_BIN_EXE_hodei");
    let user = ["--reuid", "54399", "--regid", "54399", "--clear-groups"];
    if !Command::new("setpriv").args(user).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this test cannot become another user here");
        return;
    }
    for processes in 1..=6 {
        let limit = format!("--nproc={processes}:{processes}");
        let arguments = [&user[..], &["prlimit", &limit, hodei, "run", "--", "true"]].concat();
        let output = output_within(Duration::from_secs(30), start("setpriv", &arguments));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(0 | 125)), "{processes}: {:?} {said}", output.status);
        assert!(output.status.success() || said.contains("ulimit -u"), "{processes}: {said}");
    }
}

#[test]
fn a_run_with_few_descriptors_reports_it_while_its_job_waits() {
    let arguments = ["--nofile=14:14", env!("CARGO_BIN_EXE_hodei"), "run", "--", "true"];
    let mut child = start("prlimit", &arguments);
    std::thread::sleep(Duration::from_secs(3));
    if child.try_wait().unwrap().is_none() {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || said.contains("Too many open files"), "{said}");
}
