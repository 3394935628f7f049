//! Jobs of a data directory, which run while a command of this program waits.

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

/// How long a platform that stopped by itself has to end.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs what is open in a directory while `work` waits for some of it.
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
            // What runs goes on with the next start.
            hodei.shutdown_within(Duration::ZERO).await;
            Ok(code)
        }
        Err(waited) => {
            leave(hodei, dir, &mut interrupts).await;
            waited
        }
    }
}

/// Ends a platform that stopped by itself, as one whose files were removed: the log has said why.
pub(crate) async fn give_up(hodei: Hodei) -> CliError {
    tokio::select! { () = hodei.shutdown_within(Duration::ZERO) => {}, () = sleep(END_TIMEOUT) => {} }
    CliError::Stopped
}

/// Ends a platform that may be running jobs of others; whoever interrupts that wants to go.
pub(crate) async fn leave(hodei: Hodei, dir: &Path, interrupts: &mut Interrupts) {
    let open = open_jobs(&hodei).await.map_or(0, |open| open.len());
    if open > 0 {
        let dir = dir.display();
        let _ = writeln!(
            std::io::stderr(),
            "hodei: other jobs are open ({open}): what runs has 30 s to end, `hodei job wait --data-dir {dir}` goes on"
        );
    }
    tokio::select! { () = hodei.shutdown() => {}, _ = interrupts.next() => {} }
}

/// Every open job, the oldest first.
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
