//! Stops of jobs that this user cannot signal, since they became root by a setuid program such as `sudo`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A user id without an account.
const USER: &str = "54321";

/// A directory with the programs that [`USER`] can run, and a program that becomes root.
struct Setup(tempfile::TempDir);

impl Setup {
    /// Returns `None` if this test is not root, or setuid programs do not work.
    fn prepare() -> Option<Self> {
        let setup = Self(tempfile::tempdir().unwrap());
        let open_to_all = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        open_to_all(setup.0.path(), 0o755);
        let built = Path::new(env!("CARGO_BIN_EXE_hodei")).parent().unwrap();
        for name in ["hodei", "hodei-daemon", "hodei-agent"] {
            let (from, to) = (built.join(name), setup.at(name));
            assert!(from.is_file(), "{} is not built: run `cargo build --workspace`", from.display());
            std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(drop)).unwrap();
        }
        let setpriv = ["/usr/bin/setpriv", "/bin/setpriv"].into_iter().find(|path| Path::new(path).is_file());
        let becomes_root = || {
            std::fs::copy(setpriv?, setup.at("as-root")).ok()?;
            open_to_all(&setup.at("as-root"), 0o4755);
            let output = setup.command("as-root").args(["--reuid", "0", "id", "-u"]).output().ok()?;
            (output.stdout == b"0\n").then_some(())
        };
        if becomes_root().is_none() {
            let required = std::env::var("HODEI_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.contains("setuid"), "no setuid program works here");
            eprintln!("skipped: no setuid program works here");
            return None;
        }
        Some(setup)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Returns a program of the directory, run as [`USER`].
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]).arg(self.at(name));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.current_dir(self.0.path()).env("TMPDIR", "/tmp");
        command
    }

    /// Returns a shell line that becomes a root process, which ends by itself after some seconds.
    fn root_line(&self, seconds: &str) -> String {
        format!("{} --reuid 0 --regid 0 --clear-groups sleep {seconds}", self.at("as-root").display())
    }
}

fn pids(line: &str) -> Vec<String> {
    let found = Command::new("pgrep").args(["-fx", line]).output().unwrap().stdout;
    String::from_utf8(found).unwrap().lines().map(str::to_owned).collect()
}

/// Kills all processes with this command line; this test is root, so it can.
fn end(line: &str) {
    for pid in pids(line) {
        let _ = Command::new("kill").args(["-KILL", &pid]).status();
    }
}

fn wait_for(line: &str) -> String {
    let start = Instant::now();
    loop {
        if let Some(pid) = pids(line).pop() {
            return pid;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "the job did not start");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// Returns the output of a program that must end within `limit`.
fn within(limit: Duration, mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > limit {
            let _ = child.kill();
            panic!("the program still runs after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

const END_TIMEOUT: Duration = Duration::from_secs(15);

#[test]
fn a_timeout_of_a_job_that_became_root_ends_and_names_the_survivors() {
    let Some(setup) = Setup::prepare() else { return };
    let mut run = setup.command("hodei");
    run.args(["run", "--timeout", "1s", "--kill-grace", "200ms", "--shell"]);
    let child = run.arg(format!("exec {}", setup.root_line("63.21"))).spawn().unwrap();
    let pid = wait_for("sleep 63.21");
    let output = within(END_TIMEOUT, child);
    let said = text(&output.stderr);
    end("sleep 63.21");
    assert_eq!(output.status.code(), Some(124), "{said}");
    assert!(said.contains(&format!("{pid} (user 0)")) && said.contains("lives on"), "{said}");
}

#[test]
fn a_cancel_of_a_job_that_became_root_ends_and_names_the_survivors() {
    let Some(setup) = Setup::prepare() else { return };
    let mut run = setup.command("hodei");
    run.args(["run", "--kill-grace", "200ms", "--shell"]);
    // The root process is not the main process, but holds its pipes.
    let child = run.arg(format!("{}; echo after", setup.root_line("63.22"))).spawn().unwrap();
    let pid = wait_for("sleep 63.22");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = within(END_TIMEOUT, child);
    let said = text(&output.stderr);
    end("sleep 63.22");
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains(&pid), "{pid}: {said}");
}

#[test]
fn a_root_process_left_by_a_job_is_named_and_delays_no_end() {
    let Some(setup) = Setup::prepare() else { return };
    let mut run = setup.command("hodei");
    let child = run.args(["run", "--shell"]).arg(format!("{} & sleep 0.5; exit 3", setup.root_line("63.23")));
    let output = within(END_TIMEOUT, child.spawn().unwrap());
    let (said, left) = (text(&output.stderr), pids("sleep 63.23"));
    end("sleep 63.23");
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(left.len() == 1 && said.contains(&left[0]), "{left:?}: {said}");
}

/// A daemon of [`USER`] with one slot; killed when dropped.
struct Daemon(Child, String);

impl Daemon {
    fn start(setup: &Setup) -> Self {
        let dir = setup.at("data");
        std::fs::create_dir(&dir).unwrap();
        assert!(Command::new("chown").arg(USER).arg(&dir).status().unwrap().success());
        let mut command = setup.command("hodei-daemon");
        command.args(["--listen", "127.0.0.1:0", "--slots", "1", "--drain-timeout", "0s", "--data-dir"]);
        let mut child = command.arg(&dir).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        let url = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        Self(child, url)
    }

    fn hodei(&self, setup: &Setup, arguments: &[&str]) -> Output {
        let mut command = setup.command("hodei");
        command.env("HODEI_SERVER", &self.1).env("HODEI_TOKEN_FILE", setup.at("data/token"));
        within(END_TIMEOUT, command.args(arguments).spawn().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_slot_of_a_job_that_became_root_is_free_again_and_the_daemon_stops() {
    let Some(setup) = Setup::prepare() else { return };
    let mut daemon = Daemon::start(&setup);
    let line = format!("exec {}", setup.root_line("63.24"));
    let submit = ["job", "submit", "--kill-grace", "200ms", "--shell", &line];
    let id = text(&daemon.hodei(&setup, &submit).stdout).trim().to_owned();
    let pid = wait_for("sleep 63.24");
    daemon.hodei(&setup, &["job", "cancel", &id]);
    let other = daemon.hodei(&setup, &["run", "--", "echo", "next"]);
    assert_eq!(text(&other.stdout), "next\n", "the slot is free: {}", text(&other.stderr));
    let logs = daemon.hodei(&setup, &["job", "logs", &id]);
    let shown = text(&daemon.hodei(&setup, &["job", "get", &id]).stdout);
    let again = daemon.hodei(&setup, &submit);
    assert!(again.status.success());
    // The running job cannot be killed; the daemon must still end.
    let start = Instant::now();
    while pids("sleep 63.24").len() < 2 {
        assert!(start.elapsed() < END_TIMEOUT, "the second job did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").arg(daemon.0.id().to_string()).status().unwrap().success());
    while daemon.0.try_wait().unwrap().is_none() {
        if start.elapsed() > END_TIMEOUT * 2 {
            end("sleep 63.24");
            panic!("the daemon waits for a job that it cannot kill");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    end("sleep 63.24");
    assert!(shown.contains("CANCELLED"), "{shown}");
    assert!(text(&logs.stderr).contains(&pid), "{}", text(&logs.stderr));
}
