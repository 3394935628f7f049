//! Starts and inspects the programs of the workspace for tests.
#![allow(dead_code, reason = "each test uses a part")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hodei_sdk::port::{LogBody, LogRecord};
use hodei_sdk::{ConnectOptions, Hodei, JobHandle, LogItem};
use rustix::process::{Pid, Signal, kill_process};

/// Returns the path of a program that cargo built beside the tests.
pub(crate) fn program(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_hodei-daemon")).with_file_name(name);
    assert!(program.is_file(), "{} is not built: run `cargo build --workspace`", program.display());
    program
}

/// A daemon that is killed when dropped; its agents end after their orphan timeout.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) url: String,
    /// Standard error of the daemon and its agents.
    pub(crate) said: Arc<Mutex<String>>,
}

impl Daemon {
    /// Starts a daemon on a port; 0 chooses a free one.
    pub(crate) fn start(dir: &Path, port: u16, arguments: &[&str]) -> Self {
        Self::listen(dir, &format!("127.0.0.1:{port}"), arguments)
    }

    pub(crate) fn listen(dir: &Path, address: &str, arguments: &[&str]) -> Self {
        Self::listen_in(dir, address, arguments, &[])
    }

    /// Starts a daemon on a free port with limits of descriptors, `SOFT:HARD` or one number for both.
    pub(crate) fn with_files(dir: &Path, limits: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={limits}")).arg(program("hodei-daemon"));
        Self::spawn(command, dir, "127.0.0.1:0", arguments, &[])
    }

    /// Starts a daemon at an address, with variables in its environment.
    pub(crate) fn listen_in(
        dir: &Path,
        address: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        Self::spawn(Command::new(program("hodei-daemon")), dir, address, arguments, variables)
    }

    /// Starts a daemon by a command such as `prlimit`, which must end with the path of the daemon.
    pub(crate) fn spawn(
        mut command: Command,
        dir: &Path,
        address: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let agent = program("hodei-agent");
        let own_agent =
            (!arguments.contains(&"--agent")).then_some([OsStr::new("--agent"), agent.as_os_str()]);
        let mut child = command
            .arg("--data-dir")
            .arg(dir)
            .args(["--listen", address, "--orphan-timeout", "20s"])
            .args(own_agent.into_iter().flatten())
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut before = String::new();
        let url = loop {
            let line = lines.next().unwrap_or_else(|| panic!("the daemon ended: {before}")).unwrap();
            if let Some(url) = line.strip_prefix("listening on ") {
                break url.to_owned();
            }
            before += &format!("{line}\n");
        };
        // Its agents write to the same pipe, so it must be read.
        let show = std::env::var_os("HODEI_TEST_SHOW").is_some();
        let said = Arc::new(Mutex::new(before));
        let lines_so_far = said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if show {
                    eprintln!("{line}");
                }
                let mut text = lines_so_far.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        });
        Self { child, url, said }
    }

    pub(crate) fn port(&self) -> u16 {
        self.url.rsplit(':').next().unwrap().parse().unwrap()
    }

    pub(crate) async fn connect(&self, dir: &Path) -> Hodei {
        let token_file = Some(dir.join("token"));
        Hodei::connect_with(ConnectOptions { token_file, ..ConnectOptions::new(&self.url) }).await.unwrap()
    }

    /// Returns a command of `hodei` that uses this daemon.
    pub(crate) fn hodei(&self, dir: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("hodei"));
        command.env("HODEI_SERVER", &self.url).env("HODEI_TOKEN_FILE", dir.join("token"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Kills the daemon with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end of the daemon, within `limit`, and returns its exit code.
    pub(crate) fn ended(&mut self, limit: Duration) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < limit, "the daemon still runs after {limit:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the processes of a worker: its agent, and the processes of its jobs.
pub(crate) fn processes_of(worker: hodei_sdk::id::WorkerId) -> Vec<i32> {
    let mark = format!("HODEI_WORKER_ID={worker}");
    let marked = |pid: &i32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(marked).collect()
}

/// Returns the agent of a worker.
pub(crate) fn agent_of(worker: hodei_sdk::id::WorkerId) -> Pid {
    let is_agent = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "hodei-agent")
    };
    let pid = processes_of(worker).into_iter().find(is_agent).expect("no agent");
    Pid::from_raw(pid).unwrap()
}

/// Returns the output of a job, and the number of gaps in it.
pub(crate) async fn output(job: &JobHandle) -> (Vec<u8>, usize) {
    let (mut text, mut missing, mut logs) = (Vec::new(), 0, job.logs());
    while let Some(item) = logs.next().await.unwrap() {
        match item {
            LogItem::Record { record: LogRecord { body: LogBody::Chunk { bytes, .. }, .. }, .. } => {
                text.extend_from_slice(&bytes);
            }
            LogItem::Record { .. } | LogItem::Torn { .. } => missing += 1,
        }
    }
    (text, missing)
}

/// Returns the output of a job as text, and the number of gaps in it.
pub(crate) async fn text(job: &JobHandle) -> (String, usize) {
    let (text, missing) = output(job).await;
    (String::from_utf8(text).unwrap(), missing)
}
