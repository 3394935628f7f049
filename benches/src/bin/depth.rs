//! Measures the cost of a long queue: the time from submit to start of a job that can run at once while others are
//! held, and the memory for each held job.
//!
//! `depth [DEEPEST [PROBES]]`; 1,000,000 and 500 by default. Held jobs share a concurrency key whose only place is
//! taken.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement of real time")]

use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hodei_benches::{Failure, Kept, Targets, memory, millis, numbers, percentile};
use hodei_sdk::{Hodei, JobSpec, JobStatus};

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    if let [_, one, kept, depth, probes] = &std::env::args().collect::<Vec<_>>()[..]
        && one == "one"
    {
        let kept = Kept::all().into_iter().find(|one| one.name() == kept).ok_or("no such store")?;
        println!("{}", measure(kept, depth.parse()?, probes.parse()?).await?);
        return Ok(ExitCode::SUCCESS);
    }
    let [deepest, probes] = numbers([1_000_000, 500])?;
    let mut targets = Targets::default();
    let depths: Vec<usize> =
        [1_000, 100_000, 1_000_000].into_iter().filter(|depth| *depth <= deepest).collect();
    println!(
        "held jobs, held per second, submit to start p50 and p99 in ms, bytes of memory per held job, first job after a reopen"
    );
    for kept in Kept::all() {
        let mut shallow = f64::NAN;
        for &depth in &depths {
            // A process for each measurement, so that none reuses memory that the allocator kept from another.
            let arguments = ["one", kept.name(), &depth.to_string(), &probes.to_string()].map(str::to_owned);
            let out = std::process::Command::new(std::env::current_exe()?).args(arguments).output()?;
            let text = String::from_utf8(out.stdout)?;
            let figures = text.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
            let [rate, p50, p99, bytes, again] = figures[..] else {
                return Err(format!("no figures: {text}{}", String::from_utf8_lossy(&out.stderr)).into());
            };
            shallow = if depth == depths[0] { p99 } else { shallow };
            let name = format!("{} {depth}", kept.name());
            let met = targets.check(&format!("{name}: p99"), p99 <= shallow * 2.0);
            let ratio = p99 / shallow;
            print!("{name:15} {rate:8.0} {p50:7.2} {p99:7.2} ({ratio:.2} of the first, at most 2: {met})");
            match (kept, depth) {
                // The memory of a thousand jobs is too small beside that of the allocator and the database.
                (_, ..10_000) => println!(),
                (Kept::Memory, _) => println!(" {bytes:5.0}"),
                // Below the deepest queue, the fixed memory is too large a part to check the target.
                (_, _) if depth < deepest => println!(" {bytes:5.0} {again:20.0} ms"),
                _ => {
                    let met = targets.check(&format!("{name}: memory"), bytes <= 512.0);
                    println!(" {bytes:5.0} (at most 512: {met}) {again:5.0} ms");
                }
            }
        }
    }
    Ok(targets.exit())
}

/// Measures one store at one depth; returns the figures as text, separated by blanks.
async fn measure(kept: Kept, depth: usize, probes: usize) -> Result<String, Failure> {
    let (hodei, place) = kept.open().await?;
    hodei.submit(JobSpec::command(["true"]).build()?).await?.wait().await?;
    let before = memory("VmRSS");
    let rate = hold(&hodei, depth).await?;
    let bytes = memory("VmRSS").saturating_sub(before) as f64 / depth as f64;
    let waits = probe(&hodei, probes).await?;
    hodei.shutdown().await;
    let start = Instant::now();
    if kept != Kept::Memory {
        let again = Hodei::open(&place.url).await?;
        again.submit(JobSpec::command(["true"]).build()?).await?.wait().await?;
        again.shutdown().await;
    }
    let (p50, p99) = (percentile(&waits, 0.5), percentile(&waits, 0.99));
    Ok(format!("{rate} {p50} {p99} {bytes} {}", millis(start.elapsed())))
}

/// Fills the queue; returns the number of accepted jobs per second.
async fn hold(hodei: &Hodei, depth: usize) -> Result<f64, Failure> {
    let blocker = JobSpec::command(["sleep", "3600"]).concurrency("held", 1).build()?;
    let blocker = hodei.submit(blocker).await?;
    let mut states = hodei.jobs().watch(blocker.id());
    while states.next().await?.is_some_and(|job| job.status() != JobStatus::Running) {}
    let start = Instant::now();
    let mut remaining = depth;
    while remaining > 0 {
        let count = remaining.min(1000);
        let specs = (0..count).map(|_| JobSpec::command(["true"]).concurrency("held", 1).build());
        for job in hodei.submit_batch(specs.collect::<Result<_, _>>()?).await? {
            job?;
        }
        remaining -= count;
    }
    let rate = depth as f64 / start.elapsed().as_secs_f64();
    while hodei.queue().status().await?.queued < depth {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Ok(rate)
}

/// Runs jobs one by one; returns their times from submit to start, in milliseconds.
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
