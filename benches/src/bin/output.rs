//! One job that prints much, followed live while it is stored, embedded and as three processes, beside `cat` through a
//! pipe; then read again from the store and compared by SHA-256.
//!
//! `output [MEGABYTES [ROUNDS]]`; 1,000 and 3 by default.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement of real time")]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use hodei_benches::programs::Daemon;
use hodei_benches::{Failure, Kept, Targets, median, memory, numbers};
use hodei_sdk::port::LogBody;
use hodei_sdk::{Hodei, JobLogs, JobSpec, LogItem, SeededIds};
use sha2::{Digest, Sha256};

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let [megabytes, rounds] = numbers([1_000, 3])?;
    let mut targets = Targets::default();
    let source = tempfile::NamedTempFile::new_in("target")?;
    let source = Source { path: source.path().to_owned(), sum: fill(source.path(), megabytes)?, megabytes };
    let stores = || Kept::all().into_iter().filter(|kept| *kept != Kept::Memory);
    let mut cat = Vec::new();
    let mut rounds_of: Vec<[Vec<Round>; 2]> = stores().map(|_| Default::default()).collect();
    // Before the first round: memory that the allocator keeps from a round must not hide the growth of the next.
    let before = memory("VmRSS");
    for _ in 0..rounds {
        cat.push(megabytes as f64 / through_a_pipe(&source.path)?);
        for (kept, [embedded, processes]) in stores().zip(&mut rounds_of) {
            embedded.push(in_this_process(kept, &source, before).await?);
            processes.push(in_three_processes(kept, &source).await?);
        }
    }
    let cat = median(&cat);
    println!("{megabytes} MB of output, medians of {rounds} rounds; peak growth of resident memory");
    println!("cat through a pipe          {cat:6.0} MB/s");
    for (kept, [embedded, processes]) in stores().zip(&rounds_of) {
        let least = if kept == Kept::Postgres { 60.0 } else { 150.0 };
        show(&format!("embedded, {}", kept.name()), embedded, cat, least, &mut targets);
        show(&format!("three processes, {}", kept.name()), processes, cat, least, &mut targets);
    }
    Ok(targets.exit())
}

/// The file that the job prints.
struct Source {
    path: std::path::PathBuf,
    sum: Vec<u8>,
    megabytes: usize,
}

/// Figures of one round.
struct Round {
    megabytes_a_second: f64,
    /// Growth of the serving process, and of the process that runs the job, in MiB.
    growth: [f64; 2],
    equal: bool,
}

fn show(name: &str, rounds: &[Round], cat: f64, least: f64, targets: &mut Targets) {
    let rate = median(&rounds.iter().map(|round| round.megabytes_a_second).collect::<Vec<_>>());
    let growth = [0, 1].map(|at| rounds.iter().map(|round| round.growth[at]).fold(0.0, f64::max));
    let met = targets.check(&format!("{name}: output"), rate >= least);
    println!("{name:<28}{rate:6.0} MB/s, {:.2} of cat (at least {least}: {met})", rate / cat);
    let met = targets.check(&format!("{name}: growth"), growth.iter().all(|growth| *growth <= 64.0));
    println!("  growth, platform and agent {:4.0} and {:.0} MiB (at most 64: {met})", growth[0], growth[1]);
    let met = targets.check(&format!("{name}: SHA-256"), rounds.iter().all(|round| round.equal));
    println!("  SHA-256 of stored output   {met}");
}

const MIB: f64 = (1 << 20) as f64;

async fn in_this_process(kept: Kept, source: &Source, before: u64) -> Result<Round, Failure> {
    let (hodei, _dir) = kept.open().await?;
    hodei.submit(JobSpec::command(["true"]).build()?).await?.wait().await?;
    // Resets the peak of the resident memory.
    std::fs::write("/proc/self/clear_refs", "5")?;
    let (megabytes_a_second, equal) = follow(&hodei, source).await?;
    let growth = [memory("VmHWM").saturating_sub(before) as f64 / MIB, 0.0];
    hodei.shutdown().await;
    Ok(Round { megabytes_a_second, growth, equal })
}

async fn in_three_processes(kept: Kept, source: &Source) -> Result<Round, Failure> {
    let daemon = Daemon::start(kept, &[]).await?;
    let hodei = daemon.connect().await?;
    let warm = hodei.submit(JobSpec::command(["true"]).build()?).await?.wait().await?;
    let both = [daemon.process(), daemon.agent(warm.worker().ok_or("the job has no worker")?)?];
    let before = both.map(|process| process.memory("VmRSS"));
    for process in both {
        process.forget_peak()?;
    }
    let (megabytes_a_second, equal) = follow(&hodei, source).await?;
    let growth = [0, 1].map(|at| both[at].memory("VmHWM").saturating_sub(before[at]) as f64 / MIB);
    Ok(Round { megabytes_a_second, growth, equal })
}

/// Follows a job that prints the file, then reads the stored output and compares it.
async fn follow(hodei: &Hodei, source: &Source) -> Result<(f64, bool), Failure> {
    let start = Instant::now();
    let path = source.path.display().to_string();
    let job = hodei.submit(JobSpec::command(["cat", &path]).build()?).await?;
    let followed = drain(job.logs(), |_| {}).await?;
    job.wait().await?;
    let rate = source.megabytes as f64 / start.elapsed().as_secs_f64();
    let mut hasher = Sha256::new();
    let stored = drain(job.logs(), |bytes| hasher.update(bytes)).await?;
    Ok((rate, followed == stored && hasher.finalize().to_vec() == source.sum))
}

/// Fills a file with bytes that do not repeat; returns their SHA-256.
fn fill(path: &Path, megabytes: usize) -> Result<Vec<u8>, Failure> {
    let (mut file, mut hasher, dice) = (std::fs::File::create(path)?, Sha256::new(), SeededIds::new(1));
    for _ in 0..megabytes {
        let block: Vec<u8> = (0..125_000).flat_map(|_| dice.random().to_le_bytes()).collect();
        hasher.update(&block);
        file.write_all(&block)?;
    }
    Ok(hasher.finalize().to_vec())
}

/// Returns the seconds that `cat` takes to write the file through a pipe.
fn through_a_pipe(path: &Path) -> Result<f64, Failure> {
    let start = Instant::now();
    let mut cat = Command::new("/bin/cat").arg(path).stdout(Stdio::piped()).spawn()?;
    let mut out = cat.stdout.take().ok_or("no pipe")?;
    let mut buffer = vec![0; 64 << 10];
    while out.read(&mut buffer)? > 0 {}
    cat.wait()?;
    Ok(start.elapsed().as_secs_f64())
}

async fn drain(mut logs: JobLogs, mut each: impl FnMut(&[u8])) -> Result<u64, Failure> {
    let mut total = 0;
    while let Some(item) = logs.next().await? {
        match item {
            LogItem::Record { record, .. } => match record.body {
                LogBody::Chunk { bytes, .. } => {
                    total += bytes.len() as u64;
                    each(&bytes);
                }
                LogBody::Gap(gap) => return Err(format!("a gap: {gap:?}").into()),
            },
            LogItem::Torn { .. } => return Err("the log is torn".into()),
        }
    }
    Ok(total)
}
