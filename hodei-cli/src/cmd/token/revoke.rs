//! `hodei token revoke`: revokes a token.

use clap::Args;
use hodei_sdk::Hodei;
use hodei_sdk::id::TokenId;

use super::token_json::token_json;
use crate::error::CliError;
use crate::term::show::{Format, object};

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Id of the token, as `hodei token list` shows it.
    id: TokenId,
}

pub(super) async fn run(hodei: &Hodei, format: Format, args: RevokeArgs) -> Result<u8, CliError> {
    object(&token_json(&hodei.tokens().revoke(args.id).await?), format)?;
    Ok(0)
}
