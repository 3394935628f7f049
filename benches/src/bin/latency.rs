//! Measures one job at a time on a warm idle worker: the times from submit to start, to the first byte and to the
//! result of `echo hi`, embedded and as three processes, with bare spawns of the same program as the baseline.
//!
//! `latency [JOBS]`; 500 by default. Bare spawns and jobs alternate.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement of real time")]

use std::process::{Command, ExitCode};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hodei_benches::programs::Daemon;
use hodei_benches::{Failure, Kept, Targets, millis, numbers, percentile};
use hodei_sdk::{Hodei, JobSpec};

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let [jobs] = numbers([500])?;
    let mut targets = Targets::default();
    println!("one `echo hi` at a time, {jobs} times, in milliseconds: p50, p99");
    for kept in Kept::all() {
        let (hodei, _dir) = kept.open().await?;
        one_by_one("embedded", kept, &hodei, jobs, &mut targets).await?;
        hodei.shutdown().await;
    }
    for kept in Kept::all() {
        let daemon = Daemon::start(kept, &[]).await?;
        one_by_one("three processes", kept, &daemon.connect().await?, jobs, &mut targets).await?;
    }
    Ok(targets.exit())
}

async fn one_by_one(
    how: &str,
    kept: Kept,
    hodei: &Hodei,
    jobs: usize,
    targets: &mut Targets,
) -> Result<(), Failure> {
    let name = format!("{how}, {}", kept.name());
    // A commit to a server may take longer than one to a file.
    let to_start = if kept == Kept::Postgres { 4.0 } else { 2.0 };
    let spec = JobSpec::command(["echo", "hi"]).build()?;
    hodei.submit(spec.clone()).await?.wait().await?;
    let [mut bare, mut started, mut first, mut result] = [const { Vec::new() }; 4];
    for _ in 0..jobs {
        let start = Instant::now();
        Command::new("/bin/echo").arg("hi").output()?;
        bare.push(millis(start.elapsed()));

        let (start, at) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as i64);
        let job = hodei.submit(spec.clone()).await?;
        job.logs().next().await?;
        first.push(millis(start.elapsed()));
        let ended = job.wait().await?;
        result.push(millis(start.elapsed()));
        let started_at = ended.started_at().map_or(at, hodei_sdk::time::Timestamp::as_micros);
        started.push((started_at - at) as f64 / 1000.0);
    }
    let show = |values: &[f64]| format!("{:6.2} {:6.2}", percentile(values, 0.5), percentile(values, 0.99));
    let floor = percentile(&bare, 0.5);
    println!("{name}:");
    println!("  bare spawn to its end     {}", show(&bare));
    let met =
        targets.check(&format!("{name}: submit to start"), percentile(&started, 0.5) <= floor + to_start);
    println!("  submit to start           {} (p50 at most bare + {to_start}: {met})", show(&started));
    println!("  submit to the first byte  {}", show(&first));
    let met = targets.check(&format!("{name}: submit to result"), percentile(&result, 0.5) <= 5.0);
    println!("  submit to result          {} (p50 at most 5: {met})", show(&result));
    Ok(())
}
