//! `hodei secret`: commands for secrets, whose values only jobs can read.

mod delete;
mod list;
mod put;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hodei_sdk::SecretName;

use crate::error::CliError;
use crate::target::Target;
use crate::term::show::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Store the value of a secret, read from standard input, and replace an earlier value.
    ///
    /// At a terminal, type one line, which is not shown. A pipe or a file is read to its end. The newline at the end of
    /// a value of one line is not part of the value. A job gets the secret with --secret NAME.
    Put(OneArgs),
    /// List the names of the secrets; no command shows their values.
    List(Place),
    /// Delete a secret; jobs that need it fail from then on.
    Delete(OneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Use the secrets of this data directory, as of `hodei run --data-dir`, instead of a daemon's; `put` creates it if
    /// missing.
    #[arg(long, value_name = "DIR", env = "HODEI_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// Name of the secret: letters, digits, `_`, `-` and `.`.
    name: SecretName,
    #[command(flatten)]
    place: Place,
}

/// Runs a command and returns the exit code.
pub(super) async fn run(target: &Target, format: Format, command: SecretCommand) -> Result<u8, CliError> {
    match command {
        SecretCommand::Put(args) => put::run(target, args).await,
        SecretCommand::List(place) => list::run(target, format, place).await,
        SecretCommand::Delete(args) => delete::run(target, args).await,
    }
}
