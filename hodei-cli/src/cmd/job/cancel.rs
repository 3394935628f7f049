//! `hodei job cancel`: cancels jobs by their ids.

use clap::Args;
use hodei_sdk::id::JobId;

use crate::cmd::job::place::Place;
use crate::error::CliError;
use crate::job_json::{is_asked_to_stop, job_json};
use crate::target::Target;
use crate::term::show::{Format, print, tell};

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// Ids of the jobs.
    #[arg(required = true)]
    ids: Vec<JobId>,
    #[command(flatten)]
    place: Place,
}

/// Cancels each job; an error of one does not prevent the others.
pub(super) async fn run(target: &Target, format: Format, args: CancelArgs) -> Result<u8, CliError> {
    let hodei = target.open(args.place.dir()).await?;
    let mut code = 0;
    for id in args.ids {
        match hodei.jobs().cancel(id).await {
            Ok(job) if format == Format::Json => print(&format!("{}\n", job_json(&job)))?,
            Ok(job) if is_asked_to_stop(&job) => print(&format!("{id} {}, asked to stop\n", job.status()))?,
            Ok(job) => print(&format!("{id} {}\n", job.status()))?,
            Err(error) => {
                tell(error);
                code = crate::exit::OWN_FAILURE;
            }
        }
    }
    Ok(code)
}
