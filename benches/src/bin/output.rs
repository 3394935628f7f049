//! One job that prints much, followed live while it is stored, beside `cat` through a pipe; then read again from
//! the store and compared by SHA-256.
//!
//! `output [MEGABYTES [ROUNDS]]`; 1,000 and 3 by default.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement of real time")]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use hodei_benches::{Failure, Kept, Targets, median, memory, numbers};
use hodei_sdk::port::LogBody;
use hodei_sdk::{JobLogs, JobSpec, LogItem, SeededIds};
use sha2::{Digest, Sha256};

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let [megabytes, rounds] = numbers([1_000, 3])?;
    let mut targets = Targets::default();
    let source = tempfile::NamedTempFile::new_in("target")?;
    let expected = fill(source.path(), megabytes)?;
    let (mut cat, mut live, mut growth) = (Vec::new(), Vec::new(), Vec::new());
    let mut equal = true;
    // Once, before the first: what one round leaves to the allocator must not hide what the next one takes.
    let before = memory("VmRSS");
    for _ in 0..rounds {
        cat.push(megabytes as f64 / through_a_pipe(source.path())?);
        let (hodei, _dir) = Kept::Sqlite.open().await?;
        hodei.submit(JobSpec::command(["true"]).build()?).await?.wait().await?;
        // The most that was resident counts from here.
        std::fs::write("/proc/self/clear_refs", "5")?;
        let start = Instant::now();
        let path = source.path().display().to_string();
        let job = hodei.submit(JobSpec::command(["cat", &path]).build()?).await?;
        let followed = drain(job.logs(), |_| {}).await?;
        job.wait().await?;
        live.push(megabytes as f64 / start.elapsed().as_secs_f64());
        growth.push(memory("VmHWM").saturating_sub(before) as f64 / (1 << 20) as f64);
        let mut hasher = Sha256::new();
        let stored = drain(job.logs(), |bytes| hasher.update(bytes)).await?;
        equal &= followed == stored && hasher.finalize().to_vec() == expected;
        hodei.shutdown().await;
    }
    let (cat, live, growth) = (median(&cat), median(&live), growth.iter().copied().fold(0.0, f64::max));
    println!("{megabytes} MB of output, medians of {rounds}");
    println!("cat through a pipe                 {cat:6.0} MB/s");
    let met = targets.check("output", live >= 150.0);
    println!(
        "followed live and stored, SQLite   {live:6.0} MB/s, {:.2} of cat (at least 150: {met})",
        live / cat
    );
    let met = targets.check("growth", growth <= 64.0);
    println!("growth of resident memory, the most{growth:6.0} MiB (at most 64: {met})");
    let met = targets.check("SHA-256", equal);
    println!("SHA-256 of what is stored          {met}");
    Ok(targets.exit())
}

/// Bytes that do not repeat; returns their SHA-256.
fn fill(path: &Path, megabytes: usize) -> Result<Vec<u8>, Failure> {
    let (mut file, mut hasher, dice) = (std::fs::File::create(path)?, Sha256::new(), SeededIds::new(1));
    for _ in 0..megabytes {
        let block: Vec<u8> = (0..125_000).flat_map(|_| dice.random().to_le_bytes()).collect();
        hasher.update(&block);
        file.write_all(&block)?;
    }
    Ok(hasher.finalize().to_vec())
}

/// Seconds that reading the same from `cat` takes.
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
