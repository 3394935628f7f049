//! A service that stops when it is asked to and goes on at its next start: nothing accepted is lost, and what was
//! killed in the middle runs again at no cost to its retries.
//!
//! `graceful-shutdown DIR`. Interrupt it and start it again; when all is done it prints `20 of 20 jobs are done`.
#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use hodei_sdk::port::JobFilter;
use hodei_sdk::{Error, Hodei, JobSpec, JobStatus, Settings};
use tokio::signal::unix::{SignalKind, signal};

const JOBS: usize = 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("say in which directory")?;
    // Before anything else, so that no signal ends the program half way.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut settings = Settings::default();
    settings.drain_timeout = Duration::from_millis(100);
    let hodei = Hodei::builder().url(format!("sqlite:{dir}")).settings(settings).start().await?;
    for number in 0..JOBS {
        // With a key of its own each job is accepted once, whatever became of an earlier start.
        let spec = JobSpec::command(["sleep", "0.2"]).idempotency_key(format!("job {number}")).build()?;
        hodei.submit(spec).await?;
    }
    tokio::select! {
        done = all_done(&hodei) => println!("{} of {JOBS} jobs are done", done?),
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    // Takes nothing more, waits a little for what runs, stops the rest, and ends every process.
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
