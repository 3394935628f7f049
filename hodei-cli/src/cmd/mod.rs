//! The commands: one folder a noun, one file a verb. Writing and reading at the terminal is in `term`.

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
    /// Run one job, here or by a daemon, stream its output, and exit with its exit code.
    Run(Box<run::RunArgs>),
    /// Submit jobs, look at them, wait for them: with a daemon, or in a data directory.
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Look at the workers of a daemon.
    #[command(subcommand)]
    Worker(worker::WorkerCommand),
    /// Make tokens for clients of a daemon, list them, take them back.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Give secrets values, list and delete them.
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Look at the queue of a daemon.
    #[command(subcommand)]
    Scheduler(scheduler::SchedulerCommand),
    /// Print the completions of a shell, to be put where it looks for them.
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
