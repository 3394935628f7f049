//! `hodei job`: the jobs of a daemon, or of a data directory after and between the runs.

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
    /// Submit a job, or many of a file, and print their ids.
    Submit(Box<submit::SubmitArgs>),
    /// List jobs, the newest first by the time in their ids.
    List(list::ListArgs),
    /// Show one job.
    Get(OneArgs),
    /// Say why a job waits, where it ran and why there, and what came of each attempt.
    Explain(OneArgs),
    /// Print the output of a job: its stdout on stdout, its stderr on stderr.
    ///
    /// With --output json, one object for each piece on stdout, its bytes in base64 as `data`.
    Logs(logs::LogsArgs),
    /// List the files that are kept of a job, or get one.
    Artifacts(artifacts::ArtifactArgs),
    /// Wait for the end of jobs; exit with 0 when all of them succeeded. In a data directory, run them.
    Wait(wait::WaitArgs),
    /// Cancel jobs that wait; ask those that run to stop.
    Cancel(cancel::CancelArgs),
    /// Submit a job that ended again, runnable at once, and print the id of the new one; `job wait` runs it.
    Retry(retry::RetryArgs),
    /// Show everything that happened to a job.
    Events(OneArgs),
    /// Print all jobs of a daemon as they change, a line each, until it is interrupted.
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
