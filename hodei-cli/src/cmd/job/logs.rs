//! `hodei job logs`: prints the output of a job.

use std::io::Write;

use clap::Args;
use hodei_sdk::id::JobId;

use crate::cmd::job::place::Place;
use crate::error::CliError;
use crate::job_json::log_json;
use crate::target::Target;
use crate::term::job_output::write;
use crate::term::show::Format;

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Id of the job.
    id: JobId,
    #[command(flatten)]
    place: Place,
    /// Continue with new output until the job ends; only with a daemon.
    #[arg(short, long, conflicts_with = "data_dir")]
    follow: bool,
}

pub(super) async fn run(target: &Target, format: Format, args: LogsArgs) -> Result<u8, CliError> {
    let hodei = target.open(args.place.dir()).await?;
    let logs = hodei.jobs().logs(args.id);
    let mut logs = if args.follow { logs } else { logs.stored() };
    while let Some(item) = logs.next().await? {
        let written = match format {
            Format::Table => write(&item, format),
            Format::Json => writeln!(std::io::stdout().lock(), "{}", log_json(&item)),
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(0),
            Err(error) => return Err(CliError::Output(error)),
        }
    }
    Ok(0)
}
