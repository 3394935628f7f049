//! `hodei secret`: values that jobs are given and nobody sees.

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
    /// Give a secret a value, read from standard input, in the place of one that it may have.
    ///
    /// A terminal is asked for one line and does not show it; a pipe or a file is read to its end.
    /// The newline that ends a value of one line is not of the value. Jobs that want it say --secret NAME.
    Put(OneArgs),
    /// List the secrets by name; their values are shown to nobody.
    List(Place),
    /// Delete a secret: jobs that want it fail from then on.
    Delete(OneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Where they are, as in `hodei run --data-dir`, when no daemon has them; `put` makes it when missing.
    #[arg(long, value_name = "DIR", env = "HODEI_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// Its name: letters, digits, `_`, `-` and `.`.
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
