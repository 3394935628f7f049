//! How a long queue weighs: submit to start of a job that may run at once while others are held, and what a held
//! job takes of memory.
//!
//! `depth [DEEPEST [PROBES]]`; 1,000,000 and 300 by default. Held jobs share a concurrency key whose one place is
//! taken.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement of real time")]

use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hodei_benches::{Failure, Kept, Targets, memory, millis, numbers, percentile};
use hodei_sdk::{Hodei, JobSpec, JobStatus};

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let [deepest, probes] = numbers([1_000_000, 300])?;
    let mut targets = Targets::default();
    let depths: Vec<usize> =
        [1_000, 100_000, 1_000_000].into_iter().filter(|depth| *depth <= deepest).collect();
    for kept in Kept::ALL {
        println!(
            "{}: held jobs, held a second, submit to start p50 and p99 in ms, bytes of memory a held job",
            kept.name()
        );
        let mut shallow = f64::NAN;
        for &depth in &depths {
            let (hodei, dir) = kept.open().await?;
            hodei.submit(JobSpec::command(["true"]).build()?).await?.wait().await?;
            let before = memory("VmRSS");
            let rate = hold(&hodei, depth).await?;
            let bytes = memory("VmRSS").saturating_sub(before) as f64 / depth as f64;
            let waits = probe(&hodei, probes).await?;
            let (p50, p99) = (percentile(&waits, 0.5), percentile(&waits, 0.99));
            shallow = if depth == depths[0] { p99 } else { shallow };
            let name = format!("{} with {depth} held", kept.name());
            let met = targets.check(&format!("{name}: p99"), p99 <= shallow * 2.0);
            print!(
                "  {depth:9} {rate:8.0} {p50:7.2} {p99:7.2} ({:.2} of the first, at most 2: {met})",
                p99 / shallow
            );
            // A thousand jobs are lost in what the allocator and the database keep for themselves.
            match depth {
                ..10_000 => println!(),
                _ if kept == Kept::Memory => println!(" {bytes:5.0}"),
                _ => println!(
                    " {bytes:5.0} (at most 512: {})",
                    targets.check(&format!("{name}: memory"), bytes <= 512.0)
                ),
            }
            hodei.shutdown().await;
            if kept == Kept::Sqlite && depth == deepest {
                let start = Instant::now();
                let again = Hodei::open(&kept.url(dir.path())).await?;
                again.submit(JobSpec::command(["true"]).build()?).await?.wait().await?;
                println!(
                    "  opened again with {depth} held: the first job ends after {:.0} ms",
                    millis(start.elapsed())
                );
                again.shutdown().await;
            }
        }
    }
    Ok(targets.exit())
}

/// Fills the queue; returns how many jobs a second were accepted.
async fn hold(hodei: &Hodei, depth: usize) -> Result<f64, Failure> {
    let blocker = JobSpec::command(["sleep", "3600"]).concurrency("held", 1).build()?;
    let blocker = hodei.submit(blocker).await?;
    let mut states = hodei.watch(blocker.id());
    while states.next().await?.is_some_and(|job| job.status() != JobStatus::Running) {}
    let start = Instant::now();
    let mut left = depth;
    while left > 0 {
        let count = left.min(1000);
        let specs = (0..count).map(|_| JobSpec::command(["true"]).concurrency("held", 1).build());
        for job in hodei.submit_batch(specs.collect::<Result<_, _>>()?).await? {
            job?;
        }
        left -= count;
    }
    let rate = depth as f64 / start.elapsed().as_secs_f64();
    while hodei.queue().queued < depth {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Ok(rate)
}

async fn probe(hodei: &Hodei, probes: usize) -> Result<Vec<f64>, Failure> {
    let spec = JobSpec::command(["true"]).build()?;
    let mut waits = Vec::with_capacity(probes);
    for _ in 0..probes {
        let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as i64;
        let ended = hodei.submit(spec.clone()).await?.wait().await?;
        let started_at = ended.started_at().ok_or("a probe did not run")?.as_micros();
        waits.push((started_at - at) as f64 / 1000.0);
    }
    Ok(waits)
}
