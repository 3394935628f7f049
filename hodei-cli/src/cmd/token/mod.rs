//! `hodei token`: who may come in to a daemon.

mod create;
mod list;
mod revoke;
mod token_json;

use clap::Subcommand;

use crate::error::CliError;
use crate::target::Target;
use crate::term::show::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it, this once: nobody can read it again.
    ///
    /// Its bearer puts it in HODEI_TOKEN, or in a file that HODEI_TOKEN_FILE names.
    Create(create::CreateArgs),
    /// List the tokens of every tenant; not their texts, which are not kept.
    List,
    /// Take a token back: its bearer is let in no more.
    Revoke(revoke::RevokeArgs),
}

/// Runs a command and returns the exit code.
pub(super) async fn run(target: &Target, format: Format, command: TokenCommand) -> Result<u8, CliError> {
    let hodei = target.open(None).await?;
    match command {
        TokenCommand::Create(args) => create::run(&hodei, format, args).await,
        TokenCommand::List => list::run(&hodei, format).await,
        TokenCommand::Revoke(args) => revoke::run(&hodei, format, args).await,
    }
}
