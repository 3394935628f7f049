//! Shared parts of the measurements: baselines, stores, and figures.
#![allow(clippy::disallowed_methods, reason = "a measurement of real time")]

pub mod programs;

use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hodei_sdk::Hodei;
use sqlx::{AssertSqlSafe, Connection, Executor};

/// Any failure of a measurement.
pub type Failure = Box<dyn std::error::Error>;

/// Kind of store to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// In memory.
    Memory,
    /// In a data directory: SQLite and segment files.
    Sqlite,
    /// In a new database on the PostgreSQL server of `DATABASE_URL`.
    Postgres,
}

/// An empty store, removed when dropped; a database remains until its server ends.
#[derive(Debug)]
pub struct Place {
    /// URL of the store.
    pub url: String,
    /// Directory for other files; with SQLite, it also has the store.
    pub dir: tempfile::TempDir,
}

impl Kept {
    /// Returns all kinds that can be measured here; PostgreSQL only with `DATABASE_URL`.
    pub fn all() -> Vec<Kept> {
        let mut all = vec![Self::Memory, Self::Sqlite];
        all.extend(std::env::var_os("DATABASE_URL").map(|_| Self::Postgres));
        all
    }

    /// Returns the name for the printed figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }

    /// Creates an empty store.
    ///
    /// # Errors
    /// If the directory or the database cannot be created.
    pub async fn place(self) -> Result<Place, Failure> {
        // Not in the temporary directory, which may be in memory: the measurements need a disk.
        let dir = tempfile::tempdir_in(std::env::var("HODEI_BENCH_DIR").unwrap_or_else(|_| "target".into()))?;
        let url = match self {
            Self::Memory => "memory:".to_owned(),
            Self::Sqlite => format!("sqlite:{}", dir.path().display()),
            Self::Postgres => database().await?,
        };
        Ok(Place { url, dir })
    }

    /// Opens a platform on an empty store; the store must outlive the platform.
    ///
    /// # Errors
    /// If the store cannot be created, or the platform cannot start.
    pub async fn open(self) -> Result<(Hodei, Place), Failure> {
        let place = self.place().await?;
        Ok((Hodei::open(&place.url).await?, place))
    }
}

/// Creates a database on the server of `DATABASE_URL`; returns its URL.
async fn database() -> Result<String, Failure> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let server = std::env::var("DATABASE_URL")?;
    let name = format!("bench_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut connection = sqlx::PgConnection::connect(&server).await?;
    connection.execute(sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))).await?;
    connection.close().await?;
    let (base, _) = server.rsplit_once('/').ok_or("DATABASE_URL names no database")?;
    Ok(format!("{base}/{name}"))
}

/// Rate of jobs, and processor time of the whole machine for each. Other work on the machine distorts the rate, and
/// slow processors distort both.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Jobs per second.
    pub per_second: f64,
    /// Processor time for each job, in microseconds.
    pub micros: f64,
}

/// Measures a [`Rate`].
#[derive(Debug)]
pub struct Stopwatch {
    start: Instant,
    busy: Duration,
}

impl Stopwatch {
    /// Starts a measurement.
    pub fn start() -> Self {
        Self { start: Instant::now(), busy: busy() }
    }

    /// Returns the rate of `jobs` jobs since the start.
    pub fn rate(&self, jobs: usize) -> Rate {
        let (time, busy) = (self.start.elapsed(), busy().saturating_sub(self.busy));
        Rate { per_second: jobs as f64 / time.as_secs_f64(), micros: busy.as_secs_f64() * 1e6 / jobs as f64 }
    }
}

/// Returns the time that all processors have worked since the machine started, in steps of 10 ms. See proc_stat(5).
fn busy() -> Duration {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // User, nice, system, idle, iowait and two kinds of interrupts; stolen time follows and does not count.
    let work = fields.take(7).enumerate().filter(|(at, _)| !matches!(at, 3 | 4));
    Duration::from_millis(10 * work.filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum::<u64>())
}

/// Measures a loop that spawns `/bin/true`. The standard library uses `posix_spawn` here, since the program is a path
/// and no option needs a fork.
pub fn bare_spawns(jobs: usize, threads: usize) -> Rate {
    let watch = Stopwatch::start();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..jobs / threads {
                    let mut command = Command::new("/bin/true");
                    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                    command.status().expect("`true` runs");
                }
            });
        }
    });
    watch.rate(jobs)
}

/// Measures `xargs -P2` with `true`.
///
/// # Errors
/// If `xargs` fails or is not installed.
pub fn xargs(jobs: usize) -> Result<Rate, Failure> {
    let watch = Stopwatch::start();
    let line = format!("seq {jobs} | xargs -P2 -n1 /bin/true 2>/dev/null");
    let status = Command::new("/bin/sh").args(["-c", &line]).status()?;
    // `true` ignores its arguments, and xargs exits with an error if a `true` failed.
    if !status.success() {
        return Err("xargs failed".into());
    }
    Ok(watch.rate(jobs))
}

/// Returns the median.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// Returns the smallest value that is not below `part` of all values, such as 0.99.
pub fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Converts a duration to milliseconds.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Returns a figure of `/proc/self/status` in bytes: `VmRSS` is the resident memory, `VmHWM` its peak.
pub fn memory(name: &str) -> u64 {
    memory_of("/proc/self/status", name)
}

fn memory_of(status: &str, name: &str) -> u64 {
    let status = std::fs::read_to_string(status).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// Returns the numbers of the command line in order; missing ones are replaced by their defaults.
///
/// # Errors
/// If an argument is not a number.
pub fn numbers<const N: usize>(defaults: [usize; N]) -> Result<[usize; N], Failure> {
    let mut numbers = defaults;
    for (number, given) in numbers.iter_mut().zip(std::env::args().skip(1)) {
        *number = given.parse()?;
    }
    Ok(numbers)
}

/// Collects the targets that were missed.
#[derive(Debug, Default)]
pub struct Targets {
    missed: Vec<String>,
}

impl Targets {
    /// Records whether a target was met; returns a word for the line of its figure.
    pub fn check(&mut self, name: &str, met: bool) -> &'static str {
        if !met {
            self.missed.push(name.to_owned());
        }
        if met { "met" } else { "MISSED" }
    }

    /// Prints the missed targets on stderr; returns exit code 1 if there are any.
    pub fn exit(self) -> ExitCode {
        for missed in &self.missed {
            eprintln!("missed: {missed}");
        }
        if self.missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
