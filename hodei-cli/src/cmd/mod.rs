//! The commands: a folder for each noun, a file for each verb. Input and output at the terminal is in `term`.

mod completions;
pub(crate) mod job;
pub(crate) mod run;
mod scheduler;
mod secret;
mod token;
mod worker;

use clap::Subcommand;

use crate::error::CliError;
use crate::target::Target;
use crate::term::show::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one job in this process or by a daemon, stream its output, and exit with its exit code.
    Run(Box<run::RunArgs>),
    /// Submit, inspect, wait for and cancel jobs of a daemon or of a data directory.
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Inspect and drain the workers of a daemon.
    #[command(subcommand)]
    Worker(worker::WorkerCommand),
    /// Create, list and revoke tokens for the clients of a daemon.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Store, list and delete secrets.
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Inspect the queue of a daemon.
    #[command(subcommand)]
    Scheduler(scheduler::SchedulerCommand),
    /// Print the completion script for a shell.
    Completions(completions::CompletionArgs),
}

/// Runs a command and returns the exit code.
pub(crate) async fn run(target: &Target, format: Format, command: Command) -> Result<u8, CliError> {
    match command {
        Command::Run(args) => run::run(target, format, *args).await,
        Command::Job(command) => job::run(target, format, command).await,
        Command::Worker(command) => worker::run(target, format, command).await,
        Command::Token(command) => token::run(target, format, command).await,
        Command::Secret(command) => secret::run(target, format, command).await,
        Command::Scheduler(command) => scheduler::run(target, format, command).await,
        Command::Completions(args) => completions::run(&args),
    }
}
