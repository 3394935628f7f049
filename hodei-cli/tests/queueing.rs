//! Where jobs wait, as the command line shows it, with a daemon whose workers have one slot.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test of real time")]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn hodei(daemon: &daemon::Daemon, args: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hodei"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    daemon.take(&mut command);
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(daemon: &daemon::Daemon, args: &[&str], stdin: &str) -> String {
    let output = hodei(daemon, args, stdin);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn a_short_job_runs_at_once_beside_a_long_one_when_a_second_worker_may_come() {
    let daemon = daemon::start(&["--slots", "1", "--max-workers", "2"]);
    let long = said(&daemon, &["job", "submit", "--", "sleep", "40"], "");
    std::thread::sleep(Duration::from_millis(1500));
    let start = Instant::now();
    said(&daemon, &["run", "--", "true"], "");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    said(&daemon, &["job", "cancel", &long], "");
}

#[test]
fn explain_names_the_job_ahead_in_the_worker() {
    let daemon = daemon::start(&["--slots", "1", "--max-workers", "1"]);
    // Both jobs are submitted before the platform knows how long the first runs.
    let lines = "{\"command\": [\"sleep\", \"40\"]}\n{\"command\": [\"true\"]}\n";
    let ids = said(&daemon, &["job", "submit", "--from", "-"], lines);
    let [long, short] = ids.lines().collect::<Vec<_>>()[..] else { panic!("{ids}") };
    let mut told = String::new();
    for _ in 0..100 {
        told = said(&daemon, &["job", "explain", short], "");
        if told.contains("is ASSIGNED") {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(told.contains(": next on worker ") && told.contains(&format!(", behind job {long}.")), "{told}");
    let told = said(&daemon, &["job", "explain", short, "--output", "json"], "");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["behind"]["is_next"], &told["behind"]["job_id"]), (&true.into(), &long.into()));
    let listed = said(&daemon, &["job", "list", "--output", "json"], "");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let listed: Vec<_> = listed.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert_eq!(listed, [short, long], "newest first");
    let refused = hodei(&daemon, &["job", "submit", "--input", &format!("{long}/out"), "--", "true"], "");
    let refused = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.contains("the job is RUNNING. Wait for its end first"), "{refused}");
    said(&daemon, &["job", "cancel", long], "");
    said(&daemon, &["job", "wait", short], "");
}
