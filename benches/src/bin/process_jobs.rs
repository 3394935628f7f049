//! Jobs that run `true`, embedded in memory, as a ratio to bare spawns of the same program on two threads.
//!
//! `process-jobs [JOBS [ROUNDS]]`; 10,000 jobs and 3 rounds by default. Each round measures the bare loop, the
//! platform, and the platform with 100 MB touched in this process, one after the other; the medians are printed.
//! Exits with 1 when a target of the project is missed.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement of real time")]

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use hodei_sdk::{Hodei, JobSpec, JobStatus};

/// Of the bare loop, at least.
const FLOOR: f64 = 0.6;
/// With 100 MB touched, at least this much of the rate without.
const TOUCHED: f64 = 0.9;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let jobs = numbers.next().transpose()?.unwrap_or(10_000);
    let rounds = numbers.next().transpose()?.unwrap_or(3);
    let (mut bare, mut plain, mut touched) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(bare_rate(jobs));
        plain.push(platform_rate(jobs).await?);
        let memory = touch(100 << 20);
        touched.push(platform_rate(jobs).await?);
        drop(memory);
    }
    let (bare, plain, touched) = (median(bare), median(plain), median(touched));
    println!("bare posix_spawn loop, 2 threads: {bare:.0}/s");
    println!("embedded, memory:                 {plain:.0}/s, ratio {:.2} (at least {FLOOR})", plain / bare);
    println!(
        "the same, 100 MB touched:         {touched:.0}/s, ratio {:.2} of that (at least {TOUCHED})",
        touched / plain
    );
    let met = plain / bare >= FLOOR && touched / plain >= TOUCHED;
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Spawns by `posix_spawn`: the program has a path, and nothing asks for a fork.
fn bare_rate(jobs: usize) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..jobs / 2 {
                    let mut command = Command::new("/bin/true");
                    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                    command.status().expect("`true` runs");
                }
            });
        }
    });
    jobs as f64 / start.elapsed().as_secs_f64()
}

async fn platform_rate(jobs: usize) -> Result<f64, Box<dyn std::error::Error>> {
    let hodei = Hodei::local().await?;
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
