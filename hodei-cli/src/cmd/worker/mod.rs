//! `hodei worker`: commands for the workers of a daemon.

mod drain;
mod get;
mod list;
mod worker_json;

use clap::{Args, Subcommand};
use hodei_sdk::id::WorkerId;

use crate::error::CliError;
use crate::target::Target;
use crate::term::show::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// List all workers that are not terminated.
    List,
    /// Show one worker with the metrics of its machine.
    Get(GetArgs),
    /// Drain a worker: it takes no more jobs, and ends after its last job.
    Drain(GetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Id of the worker.
    id: WorkerId,
}

/// Runs a command and returns the exit code.
pub(super) async fn run(target: &Target, format: Format, command: WorkerCommand) -> Result<u8, CliError> {
    let hodei = target.open(None).await?;
    match command {
        WorkerCommand::List => list::run(&hodei, format).await,
        WorkerCommand::Get(args) => get::run(&hodei, format, args).await,
        WorkerCommand::Drain(args) => drain::run(&hodei, format, args).await,
    }
}
