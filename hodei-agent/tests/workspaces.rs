//! Removal of the workspaces of jobs, whatever the jobs left in them.
#![allow(clippy::unwrap_used, reason = "a test")]

mod platform;

use std::path::Path;
use std::time::Duration;

use hodei_agent::{Leftovers, SystemClock};
use hodei_core::job::{JobSpec, Outcome};
use hodei_core::port::{Clock, ClockExt};
use platform::Platform;

/// Nests 20,000 directories, of which no path leads to the lowest.
const DEEP: &str = "p=$(printf 'd/%.0s' $(seq 2000)); \
                    for i in 1 2 3 4 5 6 7 8 9 10; do mkdir -p $p && cd -P $p || exit 1; done; echo > file";

async fn until_gone(platform: &Platform) {
    for _ in 0..1000 {
        if platform.left_over().is_empty() {
            return;
        }
        SystemClock::default().sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?} are left", platform.left_over());
}

#[tokio::test]
async fn a_workspace_of_any_depth_goes_with_its_job_and_the_agent_goes_on() {
    let mut platform = Platform::start(1).await;
    for (number, line) in [
        (1, DEEP.to_owned()),
        (2, "n=$(printf 'n%.0s' $(seq 255)); for i in $(seq 40); do mkdir $n && cd -P $n; done".to_owned()),
        // Something is mounted where no path leads to.
        (3, format!("{DEEP}; mkdir m; mount --bind / m || true")),
        (4, "mkdir -p a/b/c; touch a/b/c/$(printf '\\377'); chmod 0 a/b/c a/b a".to_owned()),
    ] {
        platform.assign(number, JobSpec::shell(&line)).await;
        let (ended, report) = platform.report().await;
        assert_eq!((ended, report.outcome), (number, Outcome::Succeeded), "{line}");
        until_gone(&platform).await;
    }
    assert!(Path::new("/etc/passwd").exists());
}

#[tokio::test]
async fn a_workspace_of_any_depth_that_a_killed_agent_left_is_removed_by_the_next() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::shell(format!("{DEEP}; sleep 60"))).await;
    let made = platform.workspaces.path().join("made/when-missing");
    while std::fs::read_dir(&made).map_or(0, Iterator::count) == 0 {
        SystemClock::default().sleep(Duration::from_millis(10)).await;
    }
    SystemClock::default().sleep(Duration::from_millis(300)).await;
    // As if it had been killed before it could remove anything.
    let left = platform.workspaces()[0].clone();
    let aside = made.join("aside");
    std::fs::rename(&left, &aside).unwrap();
    platform.cancel(1, Duration::ZERO).await;
    platform.report().await;
    std::fs::rename(&aside, &left).unwrap();
    let of_worker = Leftovers::of_worker(&platform.marks);
    let removed = tokio::task::spawn_blocking(move || of_worker.remove_workspaces(&made));
    SystemClock::default().timeout(Duration::from_secs(20), removed).await.unwrap().unwrap();
    assert!(platform.left_over().is_empty());
}
