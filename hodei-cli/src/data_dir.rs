//! Runs the jobs of a data directory for as long as a command waits for them.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hodei_sdk::id::JobId;
use hodei_sdk::port::JobFilter;
use hodei_sdk::{Hodei, Job, JobStatus};

use crate::error::CliError;
use crate::target::{check, here, store_url};
use crate::term::interrupts::{Interrupts, sleep};

/// Time for the shutdown of a platform that stopped by itself.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the open jobs of a data directory until `work` ends or a signal interrupts it; returns the exit code.
pub(crate) async fn run_until<F>(dir: &Path, work: impl FnOnce(Hodei) -> F) -> Result<u8, CliError>
where
    F: Future<Output = Result<u8, CliError>>,
{
    check(dir)?;
    let mut interrupts = Interrupts::new().map_err(CliError::Runtime)?;
    let hodei = here().url(store_url(dir)).start().await?;
    let interrupted = tokio::select! {
        code = interrupts.next() => Ok(code),
        waited = work(hodei.clone()) => Err(waited),
        () = hodei.stopped() => return Err(give_up(hodei).await),
    };
    match interrupted {
        Ok(code) => {
            // The next start continues the running jobs.
            hodei.shutdown_within(Duration::ZERO).await;
            Ok(code)
        }
        Err(waited) => {
            leave(hodei, dir, &mut interrupts).await;
            waited
        }
    }
}

/// Shuts down a platform that stopped by itself, for example since its files were removed; the log has the reason.
pub(crate) async fn give_up(hodei: Hodei) -> CliError {
    tokio::select! { () = hodei.shutdown_within(Duration::ZERO) => {}, () = sleep(END_TIMEOUT) => {} }
    CliError::Stopped
}

/// Shuts down a platform that may run other jobs; a signal ends the wait for them.
pub(crate) async fn leave(hodei: Hodei, dir: &Path, interrupts: &mut Interrupts) {
    let open = open_jobs(&hodei).await.map_or(0, |open| open.len());
    if open > 0 {
        let dir = dir.display();
        let _ = writeln!(
            std::io::stderr(),
            "hodei: other jobs are open ({open}): running ones have 30 s to end; `hodei job wait --data-dir {dir}` continues them"
        );
    }
    tokio::select! { () = hodei.shutdown() => {}, _ = interrupts.next() => {} }
}

/// Returns the ids of all open jobs, the oldest first.
pub(crate) async fn open_jobs(hodei: &Hodei) -> Result<Vec<JobId>, CliError> {
    let statuses = JobStatus::ALL.into_iter().filter(|status| !status.is_terminal()).collect();
    let mut filter = JobFilter { statuses, limit: 1000, ..JobFilter::default() };
    let mut ids = Vec::new();
    loop {
        let page = hodei.jobs().list(filter.clone()).await?;
        ids.extend(page.jobs.iter().map(|job: &Arc<Job>| job.id()));
        filter.after = page.next;
        if page.next.is_none() {
            ids.reverse();
            return Ok(ids);
        }
    }
}
