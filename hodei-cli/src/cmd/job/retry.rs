//! `hodei job retry`: submits a job again as a new one.

use clap::Args;

use crate::cmd::job::place::OneArgs;
use crate::cmd::job::submit::id_line;
use crate::error::CliError;
use crate::target::Target;
use crate::term::show::{Format, print};

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Submit the job again even if it has not ended: both may run at the same time.
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(target: &Target, format: Format, args: RetryArgs) -> Result<u8, CliError> {
    let RetryArgs { one, force } = args;
    let hodei = target.open(one.place.dir()).await?;
    let retried =
        if force { hodei.jobs().retry_open(one.id).await } else { hodei.jobs().retry(one.id).await };
    let job = retried.map_err(|error| CliError::retry(error, one.id))?;
    print(&id_line(job.id(), format))?;
    Ok(0)
}
