//! Starts a daemon with its agent as programs, and measures their processes.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hodei_sdk::id::WorkerId;
use hodei_sdk::{ConnectOptions, Hodei};

use crate::{Failure, Kept, Place};

/// A daemon that is stopped when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    url: String,
    place: Place,
}

/// Returns the path of a program of the workspace, built beside this one.
///
/// # Errors
/// If it is not built.
pub fn program(name: &str) -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?.with_file_name(name);
    if !program.is_file() {
        return Err(
            format!("{} is not built: run `cargo build --release --workspace`", program.display()).into()
        );
    }
    Ok(program)
}

impl Daemon {
    /// Starts a daemon on an empty store.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(kept: Kept, arguments: &[&str]) -> Result<Self, Failure> {
        let place = kept.place().await?;
        let mut child = Command::new(program("hodei-daemon")?)
            .arg("--data-dir")
            .arg(place.dir.path())
            .args(["--store", &place.url, "--listen", "127.0.0.1:0", "--drain-timeout", "0s"])
            // Its workers end with it, also on PostgreSQL.
            .args(["--on-shutdown", "stop"])
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no pipe")?).lines();
        let line = lines.next().ok_or("the daemon ended without a line on stderr")??;
        let url = line.strip_prefix("listening on ").ok_or(line.clone())?.to_owned();
        // Its agents write to the same pipe, so it must be read.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, url, place })
    }

    /// Returns the URL at which the daemon listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the path of the daemon's token.
    pub fn token_file(&self) -> PathBuf {
        self.place.dir.path().join("token")
    }

    /// Connects a client to the daemon.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub async fn connect(&self) -> Result<Hodei, Failure> {
        let token_file = Some(self.token_file());
        Ok(Hodei::connect_with(ConnectOptions { token_file, ..ConnectOptions::new(&self.url) }).await?)
    }

    /// Returns the process of the daemon.
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Returns the process of a worker's agent.
    ///
    /// # Errors
    /// If there is none.
    pub fn agent(&self, worker: WorkerId) -> Result<Process, Failure> {
        let mark = format!("HODEI_WORKER_ID={worker}");
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if name.trim() == "hodei-agent"
                && environ.split(|byte| *byte == 0).any(|one| one == mark.as_bytes())
            {
                return Ok(Process(pid));
            }
        }
        Err("the worker has no agent".into())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let terminated = Command::new("kill").arg(self.child.id().to_string()).status();
        let start = Instant::now();
        while terminated.is_ok() && start.elapsed() < Duration::from_secs(10) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process, by its id.
#[derive(Debug, Clone, Copy)]
pub struct Process(u32);

impl Process {
    /// Returns a figure of the process's status in bytes, as [`crate::memory`] does.
    pub fn memory(self, name: &str) -> u64 {
        crate::memory_of(&format!("/proc/{}/status", self.0), name)
    }

    /// Resets the peak of the resident memory (`VmHWM`).
    ///
    /// # Errors
    /// If the process has ended.
    pub fn forget_peak(self) -> Result<(), Failure> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.0), "5")?)
    }

    /// Returns the CPU time in ticks of 10 ms.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn ticks(self) -> Result<u64, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        let fields = stat.rsplit_once(')').ok_or("malformed")?.1.split_whitespace();
        // utime and stime: proc_pid_stat(5).
        let [user, system] =
            [11, 12].map(|at| fields.clone().nth(at).and_then(|field| field.parse::<u64>().ok()));
        Ok(user.ok_or("no utime")? + system.ok_or("no stime")?)
    }
}

/// Measures jobs that run `true` by the HyperQueue of PyPI, in jobs per second; `None` if it is not installed.
///
/// Its server and its worker are threads of one Python process, without a journal, and the output is dropped: its
/// fastest configuration.
///
/// # Errors
/// If it is installed and fails.
pub fn hyperqueue(jobs: usize, cores: usize) -> Result<Option<f64>, Failure> {
    const SCRIPT: &str = "
import sys, time
try:
    from hyperqueue import Job
    from hyperqueue.cluster import LocalCluster, WorkerConfig
except ImportError:
    sys.exit(77)
jobs, cores = int(sys.argv[1]), int(sys.argv[2])
with LocalCluster(worker_config=WorkerConfig(cores=cores)) as cluster:
    client = cluster.client()
    def run(count):
        job = Job()
        for _ in range(count):
            job.program(['/bin/true'], stdout=None, stderr=None)
        start = time.monotonic()
        client.wait_for_jobs([client.submit(job)], raise_on_error=True)
        return count / (time.monotonic() - start)
    run(10)
    print(run(jobs))
";
    let dir = tempfile::tempdir()?;
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT, &jobs.to_string(), &cores.to_string()]).current_dir(dir.path());
    let output = match python.stdin(Stdio::null()).stderr(Stdio::piped()).output() {
        Ok(output) => output,
        Err(_) => return Ok(None),
    };
    match output.status.code() {
        Some(77) => Ok(None),
        Some(0) => Ok(Some(last_number(&output.stdout)?)),
        _ => Err(format!("HyperQueue: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

fn last_number(text: &[u8]) -> Result<f64, Failure> {
    let text = String::from_utf8_lossy(text);
    Ok(text.split_whitespace().next_back().ok_or("HyperQueue printed no number")?.parse()?)
}
