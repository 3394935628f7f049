//! `hodei job wait`.

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
    /// The jobs [default: all that are open].
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
    Ok(Ends { jobs: order.len(), failed, code: first.map_or(0, |(_, code)| code) })
}
