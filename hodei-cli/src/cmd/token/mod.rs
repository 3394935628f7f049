//! `hodei token`: commands for the tokens of a daemon.

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
    /// Create a token and print it; it cannot be shown again.
    ///
    /// A client finds the token in HODEI_TOKEN, or in the file that HODEI_TOKEN_FILE names.
    Create(create::CreateArgs),
    /// List the tokens of all tenants, without their texts, which are not stored.
    List,
    /// Revoke a token; its clients are refused from then on.
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
