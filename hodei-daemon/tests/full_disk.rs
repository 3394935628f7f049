//! Jobs that fill the disk of the store can be cancelled, and clients are told that the disk is full.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "support/programs.rs"]
mod programs;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use hodei_sdk::{JobSpec, JobStatus};
use programs::Daemon;

/// A mounted disk of 4 MiB, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Returns `None` if this process cannot mount.
    fn mount() -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        let mounted = disk.command(&["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs"]);
        if !mounted {
            let required = std::env::var("HODEI_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.contains("mount"), "a tmpfs cannot be mounted");
            eprintln!("skipped: a tmpfs cannot be mounted here");
        }
        mounted.then_some(disk)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, words: &[&str]) -> bool {
        let status = Command::new(words[0]).args(&words[1..]).arg(self.path()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }

    fn free(&self) -> u64 {
        let about = rustix::fs::statvfs(self.path()).unwrap();
        about.f_bavail * about.f_frsize
    }

    /// Waits until there is no room for more output, for at least a second.
    fn wait_until_no_output_fits(&self) {
        let start = Instant::now();
        let mut seen = (u64::MAX, start);
        while seen.0 > 1 << 20 || seen.1.elapsed() < Duration::from_secs(1) {
            assert!(start.elapsed() < Duration::from_secs(30), "{} bytes are free", self.free());
            std::thread::sleep(Duration::from_millis(20));
            let free = self.free();
            // Failed writes free their room again.
            if free.abs_diff(seen.0) > 512 << 10 {
                seen = (free, Instant::now());
            }
        }
    }

    fn wait_until_full(&self) {
        // A commit needs more than 8 KiB.
        let start = Instant::now();
        while self.free() > 8192 {
            assert!(start.elapsed() < Duration::from_secs(20), "{} bytes are free", self.free());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.command(&["umount", "-l"]);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A daemon with one slot on a small disk.
struct Setup {
    disk: SmallDisk,
    daemon: Daemon,
}

impl Setup {
    fn start() -> Option<Self> {
        let disk = SmallDisk::mount()?;
        let daemon = Daemon::start(disk.path(), 0, &["--slots", "1", "--drain-timeout", "0s"]);
        Some(Self { disk, daemon })
    }

    fn hodei(&self, arguments: &[&str]) -> Output {
        self.daemon.hodei(self.disk.path(), arguments).output().unwrap()
    }

    fn submit(&self, line: &str) -> String {
        let output = self.hodei(&["job", "submit", "--kill-grace", "200ms", "--shell", line]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    fn cancel(&self, id: &str) -> Output {
        self.hodei(&["job", "cancel", id])
    }

    fn wait_until_cancelled(&self, id: &str) {
        self.wait_until("CANCELLED", id);
    }

    fn wait_until(&self, state: &str, id: &str) {
        let start = Instant::now();
        loop {
            let shown = text(&self.hodei(&["job", "get", id]).stdout);
            if shown.contains(state) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(15), "the job is not {state}: {shown}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn jobs_are_cancelled_on_a_disk_full_of_files() {
    let Some(setup) = Setup::start() else { return };
    // The job fills the disk once the job behind it is stored.
    let go = setup.disk.path().join("go");
    let filler = setup.submit(&format!(
        "until [ -e {} ]; do sleep .02; done; cat /dev/zero > fill; echo full; exec sleep 600",
        go.display()
    ));
    let waiting = setup.submit("echo never");
    // On a busy machine its worker may only come now: its start is stored before the disk is full.
    setup.wait_until("RUNNING", &filler);
    std::fs::write(go, "").unwrap();
    setup.disk.wait_until_full();
    // A refused submit names the full disk.
    let mut refused = setup.daemon.hodei(setup.disk.path(), &["job", "submit", "--", "true"]);
    let mut refused = refused.stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let _ = refused.kill();
    let said = text(&refused.wait_with_output().unwrap().stderr);
    assert!(said.contains("disk of the data directory is full") && !said.contains("not answer"), "{said}");
    let start = Instant::now();
    let output = setup.cancel(&waiting);
    assert!(output.status.success(), "{}", text(&output.stderr));
    setup.wait_until_cancelled(&waiting);
    let output = setup.cancel(&filler);
    assert!(output.status.success(), "{}", text(&output.stderr));
    setup.wait_until_cancelled(&filler);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let next = setup.hodei(&["run", "--", "echo", "next"]);
    assert_eq!(text(&next.stdout), "next\n", "there is room again: {}", text(&next.stderr));
}

#[test]
fn a_job_that_fills_the_disk_with_output_is_cancelled() {
    let Some(setup) = Setup::start() else { return };
    let filler = setup.submit("yes");
    setup.disk.wait_until_no_output_fits();
    let output = setup.cancel(&filler);
    assert!(output.status.success(), "{}", text(&output.stderr));
    setup.wait_until_cancelled(&filler);
    let logs = setup.hodei(&["job", "logs", &filler]);
    assert!(text(&logs.stderr).contains("of the output are missing here"), "{}", text(&logs.stderr));
    assert!(logs.stdout.starts_with(b"y\ny\n"), "the start of the output is kept");
}

#[test]
fn a_job_that_fills_the_disk_with_output_ends_at_its_timeout() {
    let Some(setup) = Setup::start() else { return };
    let arguments = ["job", "submit", "--timeout", "2s", "--kill-grace", "200ms", "--shell", "exec yes"];
    let output = setup.hodei(&arguments);
    let filler = text(&output.stdout).trim().to_owned();
    setup.disk.wait_until_no_output_fits();
    setup.wait_until("TIMED_OUT", &filler);
    let logs = setup.hodei(&["job", "logs", &filler]);
    assert!(text(&logs.stderr).contains("of the output are missing here"), "{}", text(&logs.stderr));
}

#[test]
fn a_cancel_that_cannot_be_stored_stops_the_job() {
    let Some(setup) = Setup::start() else { return };
    // The job takes all room that becomes free.
    let filler = setup.submit("while :; do head -c 100000 /dev/zero >> fill; done 2>/dev/null");
    setup.disk.wait_until_full();
    std::thread::sleep(Duration::from_millis(500));
    setup.cancel(&filler);
    setup.wait_until_cancelled(&filler);
}

/// A service may have such a limit: the write fails as on a full disk, and XFSZ ends neither process.
#[tokio::test(flavor = "multi_thread")]
async fn output_beyond_a_file_size_limit_ends_neither_daemon_nor_agent() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("prlimit");
    command.arg("--fsize=2000000").arg(programs::program("hodei-daemon"));
    let mut daemon = Daemon::spawn(command, dir.path(), "127.0.0.1:0", &[], &[]);
    let hodei = daemon.connect(dir.path()).await;
    let long = JobSpec::shell("head -c 6000000 /dev/zero; sleep 60").build().unwrap();
    let job = hodei.submit(long).await.unwrap();
    let other = JobSpec::shell("sleep 3; echo other").build().unwrap();
    let other = hodei.submit(other).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), other.wait()).await.unwrap().unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
    job.cancel().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), job.wait()).await.unwrap().unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Cancelled, 1), "its agent survived");
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.ended(Duration::from_secs(60)), Some(0));
}
