//! `hodei job wait`: waits until jobs end.

use std::collections::BTreeMap;

use clap::Args;
use hodei_sdk::id::JobId;
use hodei_sdk::{Hodei, Job};

use crate::cmd::job::place::Place;
use crate::data_dir::{open_jobs, run_until};
use crate::error::CliError;
use crate::exit;
use crate::job_json::job_json;
use crate::target::Target;
use crate::term::progress::Progress;
use crate::term::show::{Format, print, tell, visible};

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Ids of the jobs [default: all open jobs].
    ids: Vec<JobId>,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(target: &Target, format: Format, args: WaitArgs) -> Result<u8, CliError> {
    match target.dir(args.place.dir()) {
        Some(dir) => run_until(dir, |hodei| async move { wait_for(&hodei, args.ids, format).await }).await,
        None => wait_for(&target.open(None).await?, args.ids, format).await,
    }
}

async fn wait_for(hodei: &Hodei, ids: Vec<JobId>, format: Format) -> Result<u8, CliError> {
    let ids = if ids.is_empty() { open_jobs(hodei).await? } else { ids };
    let say = |job: &Job| match format {
        Format::Table => print(&format!("{} {}\n", job.id(), job.status())),
        Format::Json => print(&format!("{}\n", job_json(job))),
    };
    Ok(wait_for_all(hodei, ids, say).await?.code)
}

/// Results of a wait for many jobs.
pub(super) struct WaitSummary {
    pub(super) jobs: usize,
    /// Number of jobs that did not succeed.
    pub(super) failed: usize,
    /// Exit code of the first job, in the order of the ids, that did not succeed; else 0.
    pub(super) code: u8,
}

/// Waits for all jobs and calls `say` for each at its end; reports failures on stderr.
pub(super) async fn wait_for_all(
    hodei: &Hodei,
    ids: Vec<JobId>,
    say: impl Fn(&Job) -> Result<(), CliError>,
) -> Result<WaitSummary, CliError> {
    let order: BTreeMap<JobId, usize> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    let progress = Progress::new("ended", Some(order.len()));
    let (mut first, mut failed): (Option<(usize, u8)>, _) = (None, 0);
    let mut ends = hodei.jobs().completions(ids);
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
    Ok(WaitSummary { jobs: order.len(), failed, code: first.map_or(0, |(_, code)| code) })
}
