//! A daemon of an ordinary user, whose workers cannot make control groups.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "support/programs.rs"]
mod programs;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use hodei_sdk::worker::LimitHold;
use hodei_sdk::{Error, JobResources, JobSpec, JobStatus};
use programs::{Daemon, program};

/// Starts a daemon as another user; `None` if this test cannot become that user.
fn as_another(dir: &Path, arguments: &[&str]) -> Option<Daemon> {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["hodei-daemon", "hodei-agent"] {
        std::fs::copy(program(name), dir.join(name)).unwrap();
    }
    let other = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    if !Command::new("setpriv").args(other).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this test cannot become another user here");
        return None;
    }
    let mut child = Command::new("setpriv")
        .args(other)
        .arg(dir.join("hodei-daemon"))
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(["--listen", "127.0.0.1:0", "--orphan-timeout", "20s", "--agent"])
        .arg(dir.join("hodei-agent"))
        .args(arguments)
        .env("HOME", dir)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let url = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    Some(Daemon { child, url, said: Arc::new(Mutex::new(String::new())) })
}

fn limited() -> JobSpec {
    let resources = JobResources { memory_bytes: 64 << 20, ..JobResources::default() };
    JobSpec::command(["true"]).resources(resources).build().unwrap()
}

fn said(mut command: Command) -> (String, String) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_enforces_no_limits_and_its_jobs_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = as_another(dir.path(), &[]) else { return };
    let data = dir.path().join("data");
    let (out, err) = said(daemon.hodei(&data, &["run", "--memory", "64m", "--", "echo", "ran"]));
    assert!(out == "ran\n" && err.contains("the limits of the job will not be enforced"), "{err}");
    let (id, err) = said(daemon.hodei(&data, &["job", "submit", "--wait", "--cpus", "1", "--", "true"]));
    assert!(err.contains("the limits of the job will not be enforced"), "{err}");
    let (job, _) = said(daemon.hodei(&data, &["job", "get", id.trim()]));
    assert!(job.contains("not held on worker"), "{job}");
    let hodei = daemon.connect(&data).await;
    let worker = &hodei.workers().list().await.unwrap()[0];
    assert_eq!(LimitHold::of(&worker.labels), Some(LimitHold::Unheld));
    let (shown, _) = said(daemon.hodei(&data, &["worker", "get", &worker.id.to_string()]));
    assert!(shown.lines().any(|line| line.starts_with("limits") && line.ends_with("unheld")), "{shown}");
    let (listed, _) = said(daemon.hodei(&data, &["worker", "list", "--output", "json"]));
    assert!(listed.contains("\"limits\":\"unheld\""), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn required_limits_that_cannot_be_enforced_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = as_another(dir.path(), &["--limits", "require"]) else { return };
    let hodei = daemon.connect(&dir.path().join("data")).await;
    let refused = hodei.submit(limited()).await.unwrap_err();
    assert!(refused.field() == Some("resources.memory_bytes"), "{refused}");
    assert!(refused.to_string().contains("control groups"), "{refused}");
    let cpus = JobResources { cpu_millis: 1000, ..JobResources::default() };
    let refused = hodei.submit(JobSpec::shell("true").resources(cpus).build().unwrap()).await.unwrap_err();
    assert!(matches!(&refused, Error::Unsupported(_) | Error::Refused(_)), "{refused:?}");
    let plain = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    assert_eq!(plain.wait().await.unwrap().status(), JobStatus::Succeeded);
}
