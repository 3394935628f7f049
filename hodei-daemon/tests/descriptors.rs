//! A worker with more slots than its soft limit of descriptors allows. Alone in its file, since it changes the limit of
//! the whole process.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "support/programs.rs"]
mod programs;

use std::time::Duration;

use hodei_sdk::{JobSpec, JobStatus};
use programs::{Daemon, text};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_slots_than_the_soft_limit_has_room_for_all_run_at_once() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    if maximum.is_some_and(|hard| hard < 4096) {
        return eprintln!("skipped: the hard limit of open files is {maximum:?}");
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(1024), maximum }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &["--slots", "300", "--drain-timeout", "0s"]);
    let hodei = daemon.connect(dir.path()).await;
    let spec = JobSpec::shell("ulimit -Sn; sleep 5").timeout(Duration::from_secs(60)).build().unwrap();
    let jobs = hodei.submit_batch(vec![spec; 300]).await.unwrap();
    for job in jobs {
        let job = job.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(90), job.wait()).await.unwrap().unwrap();
        assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1), "{:?}", ended.state());
        assert_eq!(
            text(&job).await,
            ("1024\n".to_owned(), 0),
            "a job has the limit that the daemon started with"
        );
    }
}
