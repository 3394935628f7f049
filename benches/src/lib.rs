//! What the measurements share: floors to compare with, stores to measure on, and figures.
#![allow(clippy::disallowed_methods, reason = "a measurement of real time")]

pub mod programs;

use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hodei_sdk::Hodei;
use sqlx::{AssertSqlSafe, Connection, Executor};

/// Any failure of a measurement.
pub type Failure = Box<dyn std::error::Error>;

/// Where a platform keeps its state while it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// In memory.
    Memory,
    /// In a data directory: SQLite and segment files.
    Sqlite,
    /// In a database of the PostgreSQL of `DATABASE_URL`.
    Postgres,
}

/// A fresh store, there until this is dropped; a database until its server ends.
#[derive(Debug)]
pub struct Place {
    /// Its URL.
    pub url: String,
    /// A directory beside it.
    pub dir: tempfile::TempDir,
}

impl Kept {
    /// All that can be measured here.
    pub fn all() -> Vec<Kept> {
        let mut all = vec![Self::Memory, Self::Sqlite];
        all.extend(std::env::var_os("DATABASE_URL").map(|_| Self::Postgres));
        all
    }

    /// The name in the figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }

    /// A fresh store.
    ///
    /// # Errors
    /// When the disk or the database has no place for it.
    pub async fn place(self) -> Result<Place, Failure> {
        // On the disk that the measurements are about: the temporary directory may be memory.
        let dir = tempfile::tempdir_in(std::env::var("HODEI_BENCH_DIR").unwrap_or_else(|_| "target".into()))?;
        let url = match self {
            Self::Memory => "memory:".to_owned(),
            Self::Sqlite => format!("sqlite:{}", dir.path().display()),
            Self::Postgres => database().await?,
        };
        Ok(Place { url, dir })
    }

    /// A platform on a fresh store, which has to outlive it.
    ///
    /// # Errors
    /// The platform's.
    pub async fn open(self) -> Result<(Hodei, Place), Failure> {
        let place = self.place().await?;
        Ok((Hodei::open(&place.url).await?, place))
    }
}

/// A new database beside that of `DATABASE_URL`.
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

/// Jobs a second, and the processor time that one took of the whole machine, in microseconds: other work distorts the
/// first, and slow processors both.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Jobs a second.
    pub per_second: f64,
    /// Processor time of a job.
    pub micros: f64,
}

/// Measures a [`Rate`] from its start.
#[derive(Debug)]
pub struct Stopwatch {
    start: Instant,
    busy: Duration,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self { start: Instant::now(), busy: busy() }
    }

    /// Until now.
    pub fn rate(&self, jobs: usize) -> Rate {
        let (time, busy) = (self.start.elapsed(), busy().saturating_sub(self.busy));
        Rate { per_second: jobs as f64 / time.as_secs_f64(), micros: busy.as_secs_f64() * 1e6 / jobs as f64 }
    }
}

/// The time that all processors were at work since the start of the machine, by hundredths of a second: see
/// proc_stat(5).
fn busy() -> Duration {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // User, nice, system, idle, waiting for disks, two kinds of interrupts; what others stole comes behind them.
    let work = fields.take(7).enumerate().filter(|(at, _)| !matches!(at, 3 | 4));
    Duration::from_millis(10 * work.filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum::<u64>())
}

/// Spawns of `/bin/true` by `posix_spawn`: the program has a path, and nothing asks for a fork.
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

/// `xargs -P2` over as many `true`.
///
/// # Errors
/// When `xargs` is not there.
pub fn xargs(jobs: usize) -> Result<Rate, Failure> {
    let watch = Stopwatch::start();
    let line = format!("seq {jobs} | xargs -P2 -n1 /bin/true 2>/dev/null");
    let status = Command::new("/bin/sh").args(["-c", &line]).status()?;
    // `true` takes no argument amiss, and xargs says how it went.
    if !status.success() {
        return Err("xargs failed".into());
    }
    Ok(watch.rate(jobs))
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value that this part of all is not above.
pub fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Milliseconds.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A figure of `/proc/self/status`, in bytes: `VmRSS` is what is resident, `VmHWM` the most that ever was.
pub fn memory(name: &str) -> u64 {
    memory_of("/proc/self/status", name)
}

fn memory_of(status: &str, name: &str) -> u64 {
    let status = std::fs::read_to_string(status).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// Numbers of the command line, in their order, with what stands for those that are not given.
///
/// # Errors
/// When one is not a number.
pub fn numbers<const N: usize>(defaults: [usize; N]) -> Result<[usize; N], Failure> {
    let mut numbers = defaults;
    for (number, given) in numbers.iter_mut().zip(std::env::args().skip(1)) {
        *number = given.parse()?;
    }
    Ok(numbers)
}

/// What is to be met, and what was not.
#[derive(Debug, Default)]
pub struct Targets {
    missed: Vec<String>,
}

impl Targets {
    /// Notes whether a target was met, and says so in a word for the line of its figure.
    pub fn check(&mut self, name: &str, met: bool) -> &'static str {
        if !met {
            self.missed.push(name.to_owned());
        }
        if met { "met" } else { "MISSED" }
    }

    /// 1 when a target was missed.
    pub fn exit(self) -> ExitCode {
        for missed in &self.missed {
            eprintln!("missed: {missed}");
        }
        if self.missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
