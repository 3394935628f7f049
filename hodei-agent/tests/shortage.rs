//! Shortages of descriptors, processes and directories: jobs wait, are given back, or are not affected.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/platform.rs"]
mod platform;

use std::process::Command;
use std::time::Duration;

use hodei_agent::SystemClock;
use hodei_core::job::{JobSpec, Outcome};
use hodei_core::port::Clock;
use hodei_proto::v1::agent_message::Body as FromAgent;
use platform::{Platform, skip};

/// The variable that is set in the child process of a test.
const CHILD_VARIABLE: &str = "HODEI_TEST_SHORT";

/// Runs one test of this program in a child process, through the command `words`, which sets limits. Returns whether it
/// succeeded.
fn with_limits(words: &[&str], name: &str) -> bool {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(std::env::current_exe().unwrap());
    let status =
        command.args(["--exact", name, "--ignored", "--nocapture"]).env(CHILD_VARIABLE, "1").status();
    status.unwrap().success()
}

/// Runs more concurrent jobs than the descriptors or processes suffice for.
async fn run_many(count: u32) {
    let mut platform = Platform::start(count).await;
    for number in 1..=count {
        platform.assign(number, JobSpec::command(["sleep", "1"])).await;
    }
    let mut outcomes = Vec::new();
    for _ in 1..=count {
        outcomes.push(platform.report().await.1.outcome);
    }
    assert_eq!(outcomes, vec![Outcome::Succeeded; count as usize]);
}

#[tokio::test]
#[ignore = "the child process of the tests below"]
async fn forty_jobs_at_once() {
    if std::env::var_os(CHILD_VARIABLE).is_some() {
        run_many(40).await;
    }
}

#[tokio::test]
#[ignore = "the child process of a_machine_that_stays_short_gives_the_attempt_back"]
async fn one_job_beside_another() {
    if std::env::var_os(CHILD_VARIABLE).is_none() {
        return;
    }
    let mut platform = Platform::start(2).await;
    // Takes all remaining descriptors.
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    taken.truncate(taken.len() - 3);
    platform.assign(1, JobSpec::command(["true"])).await;
    let clock = SystemClock::default();
    let began = clock.monotonic();
    loop {
        match platform.next().await.unwrap() {
            FromAgent::GiveBack(back) => {
                assert_eq!(back.attempts.len(), 1);
                break;
            }
            FromAgent::JobFinished(_) | FromAgent::JobStarted(_) => panic!("the attempt started"),
            _ => {}
        }
    }
    assert!(clock.monotonic() - began < Duration::from_secs(9), "it was not given back in time");
    drop(taken);
    platform.assign(2, JobSpec::command(["true"])).await;
    assert_eq!(platform.report().await.1.outcome, Outcome::Succeeded, "its slot was not freed");
    platform.stop.drain.cancel();
}

#[tokio::test]
#[ignore = "the child process of a_cancel_ends_the_wait_for_a_short_machine"]
async fn one_job_that_is_cancelled() {
    if std::env::var_os(CHILD_VARIABLE).is_none() {
        return;
    }
    let mut platform = Platform::start(1).await;
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    platform.assign(1, JobSpec::command(["true"])).await;
    SystemClock::default().sleep(Duration::from_millis(300)).await;
    platform.cancel(1, Duration::from_secs(5)).await;
    let (_, report) = platform.report().await;
    assert_eq!((report.outcome, report.started_at), (Outcome::Cancelled, None));
}

#[test]
fn more_jobs_than_descriptors_all_succeed() {
    assert!(with_limits(&["prlimit", "--nofile=96:96"], "forty_jobs_at_once"));
}

#[test]
fn more_jobs_than_processes_all_succeed() {
    let other = ["setpriv", "--reuid", "54321", "--clear-groups", "prlimit", "--nproc=24:24"];
    let can = Command::new(other[0]).args(&other[1..]).arg("true").status();
    if !can.is_ok_and(|status| status.success()) {
        return skip("setpriv");
    }
    assert!(with_limits(&other, "forty_jobs_at_once"));
}

#[test]
fn a_machine_that_stays_short_gives_the_attempt_back() {
    assert!(with_limits(&["prlimit", "--nofile=96:96"], "one_job_beside_another"));
}

#[test]
fn a_cancel_ends_the_wait_for_a_short_machine() {
    assert!(with_limits(&["prlimit", "--nofile=96:96"], "one_job_that_is_cancelled"));
}

#[tokio::test]
async fn removed_workspaces_are_created_again() {
    let mut platform = Platform::start(1).await;
    let base = platform.workspaces.path().join("made/when-missing");
    let specs = || {
        [
            JobSpec::command(["/usr/bin/env", "pwd"]),
            JobSpec::shell("pwd").working_dir("below"),
            JobSpec::script("pwd"),
        ]
    };
    let mut number = 0;
    for clean in ["all that is in it", "the directory itself", "another in its place"] {
        for spec in specs() {
            number += 1;
            platform.stdout.clear();
            platform.log_seen = 0;
            platform.assign(number, spec).await;
            let report = platform.report().await.1;
            assert_eq!(report.outcome, Outcome::Succeeded, "{clean}: {number}");
            let place = String::from_utf8(platform.stdout.clone()).unwrap();
            assert!(place.starts_with(base.to_str().unwrap()), "{place}");
            for spare in platform.workspaces() {
                let _ = std::fs::remove_dir_all(&spare).or_else(|_| std::fs::remove_file(&spare));
                if clean == "another in its place" {
                    std::fs::write(&spare, "").unwrap();
                }
            }
            if clean == "the directory itself" {
                std::fs::remove_dir_all(base.parent().unwrap()).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workspaces_are_created_again_while_jobs_start() {
    let mut platform = Platform::start(4).await;
    let base = platform.workspaces.path().join("made/when-missing");
    let over = std::sync::atomic::AtomicBool::new(false);
    let mut outcomes = Vec::new();
    std::thread::scope(|scope| {
        // Removes workspaces while jobs start.
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                for entry in std::fs::read_dir(&base).into_iter().flatten().flatten() {
                    let _ = std::fs::remove_dir(entry.path());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for number in 1..=100 {
                    platform.assign(number, JobSpec::command(["/bin/true"])).await;
                }
                for _ in 1..=100 {
                    outcomes.push(platform.report().await.1.outcome);
                }
            });
        });
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(outcomes, vec![Outcome::Succeeded; 100]);
}
