//! Processes that a job leaves end with the job: while other jobs run, and after kills.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[path = "support/daemon.rs"]
mod daemon;

fn hodei(arguments: &[&str], by_daemon: bool) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hodei"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if by_daemon {
        daemon::place(&mut command);
    }
    command
}

fn is_alive(line: &str) -> bool {
    !Command::new("pgrep").args(["-fx", line]).output().unwrap().stdout.is_empty()
}

/// Waits until a process with this command line exists, or until none does; returns the duration.
fn wait_until(line: &str, is_there: bool, limit: Duration) -> Duration {
    let start = Instant::now();
    while is_alive(line) != is_there {
        assert!(start.elapsed() < limit, "`{line}` exists: {}", !is_there);
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

const END_TIMEOUT: Duration = Duration::from_secs(1);
const START_TIMEOUT: Duration = Duration::from_secs(15);

fn has_groups() -> bool {
    let has = Path::new("/sys/fs/cgroup/pids/cgroup.procs").exists();
    if !has {
        let required = std::env::var("HODEI_TEST_REQUIRE").unwrap_or_default();
        assert!(!required.contains("cgroups"), "no control groups can be made here");
        eprintln!("skipped: no control groups can be made here");
    }
    has
}

/// Shell lines that each leave a process in another way, with the command line of that process.
fn leavers(number: &str) -> Vec<(String, String)> {
    let sleep = |last: u32| format!("sleep {number}{last}");
    vec![
        (format!("env -i setsid -f {}; true", sleep(1)), sleep(1)),
        (format!("(env -i setsid sh -c '{} & {}' &) ; sleep 0.1", sleep(2), sleep(2)), sleep(2)),
        (format!("env -i setsid -f nohup {} >/dev/null 2>&1 </dev/null; exit 3", sleep(3)), sleep(3)),
        (
            format!("trap '' TERM HUP; env -i setsid -f sh -c 'trap \"\" TERM; {}; :' & sleep 0.1", sleep(4)),
            sleep(4),
        ),
    ]
}

#[test]
fn no_process_of_a_job_outlives_it_while_other_jobs_run() {
    if !has_groups() {
        return;
    }
    for by_daemon in [false, true] {
        // Another job of the same worker, which started earlier.
        let beside = if by_daemon { "sleep 7601" } else { "sleep 7602" };
        let dir = tempfile::tempdir().unwrap();
        let other = by_daemon.then(|| {
            let child = hodei(&["run", "--shell", beside], true).spawn().unwrap();
            wait_until(beside, true, START_TIMEOUT);
            child
        });
        for (line, left) in leavers(if by_daemon { "761" } else { "762" }) {
            for limits in [&[][..], &["--pids", "100"]] {
                let arguments = [&["run"][..], limits, &["--shell", &line]].concat();
                let output = hodei(&arguments, by_daemon).current_dir(dir.path()).output().unwrap();
                assert!(matches!(output.status.code(), Some(0 | 3)), "{line}: {output:?}");
                wait_until(&left, false, END_TIMEOUT);
            }
        }
        if let Some(mut other) = other {
            assert!(is_alive(beside), "another job was ended too");
            end(&mut other, "TERM");
        }
    }
}

/// Returns `hodei` as a user who cannot make control groups; `None` if this test cannot become that user.
fn hodei_of_another_user(arguments: &[&str]) -> Option<Command> {
    let user = ["--reuid", "54321", "--regid", "54321", "--clear-groups"];
    if !Command::new("setpriv").args(user).arg("true").status().is_ok_and(|status| status.success()) {
        assert!(!rustix::process::geteuid().is_root(), "root can become any user");
        eprintln!("skipped: this test cannot become another user here");
        return None;
    }
    let mut command = Command::new("setpriv");
    command
        .args(user)
        .arg(env!("CARGO_BIN_EXE_hodei"))
        .args(arguments)
        .current_dir("/")
        .env("TMPDIR", "/tmp");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

#[test]
fn no_process_of_a_job_outlives_its_run_without_control_groups() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::os::unix::fs::chown(dir.path(), Some(54321), Some(54321)).unwrap_or_default();
    let data_dir = dir.path().join("data");
    for (number, place) in [("764", &[][..]), ("765", &["--data-dir", data_dir.to_str().unwrap()])] {
        for (line, left) in leavers(number) {
            let arguments = [&["run"][..], place, &["--shell", &line]].concat();
            let Some(mut run) = hodei_of_another_user(&arguments) else { return };
            let output = run.output().unwrap();
            assert!(matches!(output.status.code(), Some(0 | 3)), "{line}: {output:?}");
            assert!(!is_alive(&left), "`{line}` left a process");
        }
    }
}

#[test]
fn no_process_of_a_job_outlives_it_during_a_run_without_control_groups() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::os::unix::fs::chown(dir.path(), Some(54321), Some(54321)).unwrap_or_default();
    let data_dir = dir.path().join("data");
    let made = ["run", "--data-dir", data_dir.to_str().unwrap(), "--", "true"];
    let Some(mut make) = hodei_of_another_user(&made) else { return };
    assert!(make.output().unwrap().status.success());
    // The second job starts when the first has ended, and looks for its processes.
    let jobs = [
        r#"{"shell":"env -i setsid -f sleep 7661; pgrep -fx 'sleep 7661'","concurrency":{"key":"one","limit":1}}"#,
        r#"{"shell":"sleep 2; ! pgrep -fx 'sleep 7661'","concurrency":{"key":"one","limit":1}}"#,
    ];
    let from = dir.path().join("jobs");
    std::fs::write(&from, jobs.join("\n")).unwrap();
    let place = ["--data-dir", data_dir.to_str().unwrap(), "--from", from.to_str().unwrap()];
    let arguments = [&["job", "submit", "--wait"][..], &place].concat();
    let output = hodei_of_another_user(&arguments).unwrap().output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A process that is started into a container from outside has a session that the container cannot see.
#[test]
fn no_process_of_a_job_outlives_it_in_a_session_from_outside_its_namespace() {
    let namespace = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    if !Command::new("unshare").args(namespace).arg("true").status().is_ok_and(|status| status.success()) {
        let required = std::env::var("HODEI_TEST_REQUIRE").unwrap_or_default();
        assert!(!required.contains("mount"), "a pid namespace cannot be made");
        eprintln!("skipped: a pid namespace cannot be made here");
        return;
    }
    for (line, left) in leavers("767") {
        let Some(run) = hodei_of_another_user(&["run", "--shell", &line]) else { return };
        let mut command = Command::new("unshare");
        // Started by a shell, so that it is not the first process of the namespace.
        let shell = format!("\"$@\"; code=$?; pgrep -fx '{left}'; exit $code");
        command.args(namespace).args(["sh", "-c", &shell, "sh"]).arg(run.get_program()).args(run.get_args());
        let output = command.current_dir("/").env("TMPDIR", "/tmp").stdin(Stdio::null()).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 3)), "{line}: {output:?}");
        let said = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(said, ("".into(), "".into()), "`{line}` left a process, or Hodei complained");
    }
}

fn end(child: &mut Child, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    child.wait().unwrap();
}

#[test]
fn a_killed_run_takes_its_job_along() {
    for (line, left) in [
        ("sleep 7630".to_owned(), "sleep 7630"),
        ("sleep 7631 & (setsid sleep 7631 &) ; wait".to_owned(), "sleep 7631"),
        ("trap '' TERM HUP; sleep 7632; :".to_owned(), "sleep 7632"),
        ("env -i setsid -f sleep 7633; sleep 60".to_owned(), "sleep 7633"),
    ] {
        if line.contains("env -i") && !has_groups() {
            continue;
        }
        for limits in [&[][..], &["--pids", "100"]] {
            let arguments = [&["run"][..], limits, &["--shell", &line]].concat();
            let mut run = hodei(&arguments, false).spawn().unwrap();
            wait_until(left, true, START_TIMEOUT);
            end(&mut run, "KILL");
            wait_until(left, false, END_TIMEOUT);
        }
    }
}

#[test]
fn a_run_killed_with_its_group_takes_its_job_along() {
    use std::os::unix::process::CommandExt;
    let mut run = hodei(&["run", "--", "sleep", "7640"], false).process_group(0).spawn().unwrap();
    wait_until("sleep 7640", true, START_TIMEOUT);
    let group = format!("-{}", run.id());
    assert!(Command::new("kill").args(["-KILL", "--", &group]).status().unwrap().success());
    run.wait().unwrap();
    wait_until("sleep 7640", false, END_TIMEOUT);
}

#[test]
fn a_run_leaves_no_guard() {
    // The job and the guard are children of the run.
    let line = "pgrep -P $PPID -f '[e]nd-jobs-with-parent'";
    let output = hodei(&["run", "--shell", line], false).output().unwrap();
    let guard = String::from_utf8(output.stdout).unwrap();
    let guard: u32 = guard.trim().parse().unwrap_or_else(|_| panic!("{guard:?} is not one guard"));
    let line = std::fs::read_to_string(format!("/proc/{guard}/cmdline")).unwrap_or_default();
    assert!(!line.contains("end-jobs-with-parent"), "the guard still runs");
}
