//! A service that stops on a signal and goes on at its next start: no accepted job is lost, and a killed job runs again
//! without a charge to its retries.
//!
//! `graceful-shutdown DIR`. Interrupt it and start it again; when all jobs are done it prints `20 of 20 jobs are done`.
#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use hodei_sdk::port::JobFilter;
use hodei_sdk::{Error, Hodei, JobSpec, JobStatus, Settings};
use tokio::signal::unix::{SignalKind, signal};

const JOBS: usize = 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("no directory given: run `graceful-shutdown DIR`")?;
    // First of all, so that a signal always leads to a shutdown.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut settings = Settings::default();
    settings.drain_timeout = Duration::from_millis(100);
    let hodei = Hodei::builder().url(format!("sqlite:{dir}")).settings(settings).start().await?;
    for number in 0..JOBS {
        // By its key, each job is accepted only once, even after an interrupted start.
        let spec = JobSpec::command(["sleep", "0.2"]).idempotency_key(format!("job {number}")).build()?;
        hodei.submit(spec).await?;
    }
    tokio::select! {
        done = all_done(&hodei) => println!("{} of {JOBS} jobs are done", done?),
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    // Accepts no more jobs, waits for running jobs until the drain timeout, and ends every process.
    hodei.shutdown().await;
    Ok(())
}

async fn all_done(hodei: &Hodei) -> Result<usize, Error> {
    let jobs = hodei.jobs().list(JobFilter { limit: JOBS, ..JobFilter::default() }).await?.jobs;
    let mut done = 0;
    for job in jobs {
        done += usize::from(hodei.job(job.id()).wait().await?.status() == JobStatus::Succeeded);
    }
    Ok(done)
}
