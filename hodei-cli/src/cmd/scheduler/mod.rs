//! `hodei scheduler`: commands for the queue.

mod status;

use clap::Subcommand;

use crate::error::CliError;
use crate::target::Target;
use crate::term::show::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum SchedulerCommand {
    /// Show the queue after the last round of scheduling, and why its jobs wait.
    Status,
}

/// Runs a command and returns the exit code.
pub(super) async fn run(target: &Target, format: Format, command: SchedulerCommand) -> Result<u8, CliError> {
    match command {
        SchedulerCommand::Status => status::run(target, format).await,
    }
}
