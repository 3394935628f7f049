//! Waiting for the ends of jobs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hodei_sdk::id::JobId;
use hodei_sdk::port::JobFilter;
use hodei_sdk::{Hodei, Job, JobStatus};

use super::WaitArgs;
use crate::error::CliError;
use crate::exit;
use crate::job_json::job_json;
use crate::progress::Progress;
use crate::run::{Interrupts, give_up, leave};
use crate::show::{Format, print, tell, visible};
use crate::target::{Target, check, here, store_url};

pub(super) async fn wait(target: &Target, format: Format, args: WaitArgs) -> Result<u8, CliError> {
    match target.dir(args.place.dir()) {
        Some(dir) => run_until(dir, |hodei| async move { wait_for(&hodei, args.ids, format).await }).await,
        None => wait_for(&target.open(None).await?, args.ids, format).await,
    }
}

/// Runs what is open in a directory while `work` waits for some of it.
pub(super) async fn run_until<F>(dir: &Path, work: impl FnOnce(Hodei) -> F) -> Result<u8, CliError>
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

async fn wait_for(hodei: &Hodei, ids: Vec<JobId>, format: Format) -> Result<u8, CliError> {
    let ids = if ids.is_empty() { open_jobs(hodei).await? } else { ids };
    let say = |job: &Job| match format {
        Format::Table => print(&format!("{} {}\n", job.id(), job.status())),
        Format::Json => print(&format!("{}\n", job_json(job))),
    };
    Ok(ends(hodei, ids, say).await?.code)
}

/// What became of many jobs.
pub(super) struct Ends {
    pub(super) jobs: usize,
    pub(super) failed: usize,
    /// The exit code of the first that did not succeed, in the order of the ids.
    pub(super) code: u8,
}

/// Waits for all, telling of each; those that did not succeed are explained on stderr.
pub(super) async fn ends(
    hodei: &Hodei,
    ids: Vec<JobId>,
    say: impl Fn(&Job) -> Result<(), CliError>,
) -> Result<Ends, CliError> {
    let order: BTreeMap<JobId, usize> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    let progress = Progress::new("ended", Some(order.len()));
    let (mut first, mut failed): (Option<(usize, u8)>, _) = (None, 0);
    let mut ends = hodei.ends(ids);
    while let Some(job) = ends.next().await? {
        progress.more(1);
        progress.aside(|| say(&job))?;
        let code = exit::code(&job);
        if code == 0 {
            continue;
        }
        failed += 1;
        if let Some(message) = exit::message(&job) {
            progress.aside(|| tell(format_args!("{}: {}", job.id(), visible(&message))));
        }
        let place = order.get(&job.id()).copied().unwrap_or(usize::MAX);
        if first.is_none_or(|(earlier, _)| place < earlier) {
            first = Some((place, code));
        }
    }
    progress.end();
    Ok(Ends { jobs: order.len(), failed, code: first.map_or(0, |(_, code)| code) })
}

/// Every open job, the oldest first.
pub(crate) async fn open_jobs(hodei: &Hodei) -> Result<Vec<JobId>, CliError> {
    let statuses = JobStatus::ALL.into_iter().filter(|status| !status.is_terminal()).collect();
    let mut filter = JobFilter { statuses, limit: 1000, ..JobFilter::default() };
    let mut ids = Vec::new();
    loop {
        let page = hodei.list(filter.clone()).await?;
        ids.extend(page.jobs.iter().map(|job: &Arc<Job>| job.id()));
        filter.after = page.next;
        if page.next.is_none() {
            ids.reverse();
            return Ok(ids);
        }
    }
}
