//! Jobs that run `true`, embedded, as a ratio to bare spawns of the same program on two threads.
//!
//! `process-jobs [JOBS [ROUNDS]]`; 10,000 jobs and 3 rounds by default. Each round measures everything once, one
//! after the other; the medians are printed. Exits with 1 when a target of the project is missed.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement of real time")]

use std::process::ExitCode;
use std::time::Instant;

use hodei_benches::{Failure, Kept, Targets, bare_spawns, median, numbers, xargs};
use hodei_sdk::{JobSpec, JobStatus};

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let [jobs, rounds] = numbers([10_000, 3])?;
    let mut rates = vec![Vec::new(); 6];
    for _ in 0..rounds {
        rates[0].push(bare_spawns(jobs, 2));
        rates[1].push(bare_spawns(jobs, 1));
        rates[2].push(xargs(jobs)?);
        rates[3].push(platform_rate(Kept::Memory, jobs).await?);
        rates[4].push(platform_rate(Kept::Sqlite, jobs).await?);
        let touched = touch(100 << 20);
        rates[5].push(platform_rate(Kept::Memory, jobs).await?);
        drop(touched);
    }
    let medians: Vec<f64> = rates.iter().map(|rates| median(rates)).collect();
    let [bare, one, xargs, memory, sqlite, touched] = medians[..] else { return Err("six rates".into()) };
    let mut targets = Targets::default();
    println!("{jobs} x true, medians of {rounds}, in jobs a second, and the ratio to the first line");
    println!("posix_spawn loop, 2 threads        {bare:6.0}");
    println!("posix_spawn loop, 1 thread         {one:6.0}  {:.2}", one / bare);
    println!("xargs -P2                          {xargs:6.0}  {:.2}", xargs / bare);
    let met = targets.check("memory", memory / bare >= 0.6);
    println!("embedded, memory                   {memory:6.0}  {:.2} (at least 0.60: {met})", memory / bare);
    let met = targets.check("SQLite", sqlite / bare >= 0.5);
    println!("embedded, SQLite                   {sqlite:6.0}  {:.2} (at least 0.50: {met})", sqlite / bare);
    let met = targets.check("100 MB touched", touched / memory >= 0.9);
    let ratio = touched / memory;
    println!(
        "embedded, memory, 100 MB touched   {touched:6.0}  {ratio:.2} of untouched (at least 0.90: {met})"
    );
    Ok(targets.exit())
}

async fn platform_rate(kept: Kept, jobs: usize) -> Result<f64, Failure> {
    let (hodei, _dir) = kept.open().await?;
    hodei.submit(JobSpec::command(["true"]).build()?).await?.wait().await?;
    let specs = (0..jobs).map(|_| JobSpec::command(["true"]).build()).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    for job in hodei.submit_batch(specs).await? {
        assert_eq!(job?.wait().await?.status(), JobStatus::Succeeded);
    }
    let rate = jobs as f64 / start.elapsed().as_secs_f64();
    hodei.shutdown().await;
    Ok(rate)
}

fn touch(bytes: usize) -> Vec<u8> {
    let mut memory = vec![0; bytes];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(memory)
}
