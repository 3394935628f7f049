//! `hodei job`: commands for the jobs of a daemon or of a data directory.

mod artifacts;
mod cancel;
mod events;
mod explain;
mod get;
mod list;
mod logs;
mod place;
mod retry;
pub(crate) mod submit;
mod wait;
mod watch;

use clap::Subcommand;

use self::place::OneArgs;
use crate::error::CliError;
use crate::target::Target;
use crate::term::show::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Submit a job, or the jobs of a file, and print the ids.
    Submit(Box<submit::SubmitArgs>),
    /// List jobs, newest first by the time in their ids.
    List(list::ListArgs),
    /// Show one job.
    Get(OneArgs),
    /// Explain why a job waits, which workers it was assigned to and why, and how each attempt ended.
    Explain(OneArgs),
    /// Print the output of a job: its stdout on stdout, its stderr on stderr.
    ///
    /// With --output json, print one object on stdout for each piece of output, with its bytes in base64 as `data`.
    Logs(logs::LogsArgs),
    /// List the kept files of a job, or get one.
    Artifacts(artifacts::ArtifactArgs),
    /// Wait until jobs end, and exit with 0 if all succeeded; in a data directory, run them.
    Wait(wait::WaitArgs),
    /// Cancel waiting jobs, and ask running jobs to stop.
    Cancel(cancel::CancelArgs),
    /// Submit a job that ended again as a new job that can run at once, and print its id.
    ///
    /// In a data directory, `hodei job wait` runs the new job.
    Retry(retry::RetryArgs),
    /// Show all events of a job.
    Events(OneArgs),
    /// Print a line for each change of a job of a daemon, until interrupted.
    Watch(watch::WatchArgs),
}

/// Runs a command and returns the exit code.
pub(super) async fn run(target: &Target, format: Format, command: JobCommand) -> Result<u8, CliError> {
    match command {
        JobCommand::Submit(args) => submit::run(target, format, *args).await,
        JobCommand::List(args) => list::run(target, format, args).await,
        JobCommand::Get(args) => get::run(target, format, args).await,
        JobCommand::Explain(args) => explain::run(target, format, args).await,
        JobCommand::Logs(args) => logs::run(target, format, args).await,
        JobCommand::Artifacts(args) => artifacts::run(target, format, args).await,
        JobCommand::Wait(args) => wait::run(target, format, args).await,
        JobCommand::Cancel(args) => cancel::run(target, format, args).await,
        JobCommand::Retry(args) => retry::run(target, format, args).await,
        JobCommand::Events(args) => events::run(target, format, args).await,
        JobCommand::Watch(args) => watch::run(target, format, args).await,
    }
}
