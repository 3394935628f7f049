//! `hodei worker`: where jobs run.

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
    /// List the workers that are not terminated.
    List,
    /// Show one worker, and how its machine does.
    Get(GetArgs),
    /// Have a worker take nothing more, and leave when its jobs have ended.
    Drain(GetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The worker.
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
