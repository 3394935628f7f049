//! `hodei token`: who may come in to a daemon.

use std::time::Duration;

use clap::{Args, Subcommand};
use hodei_sdk::Role;
use hodei_sdk::access::{TokenTerms, TokenView};
use hodei_sdk::id::TokenId;
use hodei_sdk::job::TenantId;
use serde_json::{Value, json};

use crate::args::duration;
use crate::error::CliError;
use crate::show::{Format, lines, object, print, seconds, shown, table};
use crate::target::Target;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it, this once: nobody can read it again.
    ///
    /// Its bearer puts it in HODEI_TOKEN, or in a file that HODEI_TOKEN_FILE names.
    Create(CreateArgs),
    /// List the tokens of every tenant; not their texts, which are not kept.
    List,
    /// Take a token back: its bearer is let in no more.
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// What to call it, such as the program or the person that has it.
    name: String,
    /// What it may do: viewer looks at jobs, submitter submits and cancels them, operator drains workers and changes
    /// secrets, admin makes tokens.
    #[arg(long, value_name = "ROLE", default_value = "submitter")]
    role: Role,
    /// Whose jobs and secrets it is about; its bearer sees no others [default: yours].
    #[arg(long, value_name = "NAME")]
    tenant: Option<TenantId>,
    /// How long it is good, such as 12h or 90d [default: until it is revoked].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    life: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The token's id, as `hodei token list` shows it.
    id: TokenId,
}

/// Runs a command.
pub(crate) async fn run(target: &Target, format: Format, command: TokenCommand) -> Result<u8, CliError> {
    let hodei = target.open(None).await?;
    match command {
        TokenCommand::Create(CreateArgs { name, role, tenant, life }) => {
            let tenant = tenant.unwrap_or_else(|| TenantId::new(""));
            let (token, text) = hodei.create_token(TokenTerms { name, tenant, role }, life).await?;
            if format == Format::Json {
                let mut json = token_json(&token);
                json["token"] = json!(text);
                object(&json, format)?;
            } else {
                print(&format!("{text}\n"))?;
            }
        }
        TokenCommand::List => list(&hodei.list_tokens().await?, format)?,
        TokenCommand::Revoke(RevokeArgs { id }) => {
            object(&token_json(&hodei.revoke_token(id).await?), format)?;
        }
    }
    Ok(0)
}

fn list(tokens: &[TokenView], format: Format) -> Result<(), CliError> {
    if format == Format::Json {
        return print(&format!("{}\n", json!(tokens.iter().map(token_json).collect::<Vec<_>>())));
    }
    if tokens.is_empty() {
        return print("No tokens but the daemon's own: `hodei token create NAME` makes one.\n");
    }
    let mut table = table(&["ID", "NAME", "TENANT", "ROLE", "CREATED", "ENDS"]);
    for token in tokens {
        let ends = match (token.revoked_at, token.expires_at) {
            (Some(at), _) => format!("revoked {}", seconds(&at.to_string())),
            (None, Some(at)) => seconds(&at.to_string()),
            (None, None) => "-".to_owned(),
        };
        let TokenTerms { name, tenant, role } = &token.terms;
        let created = seconds(&token.created_at.to_string());
        table.add_row([
            token.id.to_string(),
            shown(name),
            shown(tenant.as_str()),
            role.to_string(),
            created,
            ends,
        ]);
    }
    print(&lines(&table))
}

/// The stable JSON of a token.
fn token_json(token: &TokenView) -> Value {
    json!({
        "id": token.id.to_string(),
        "name": token.terms.name,
        "tenant": token.terms.tenant.as_str(),
        "role": token.terms.role.as_str(),
        "created_at": token.created_at.to_string(),
        "expires_at": token.expires_at.map(|at| at.to_string()),
        "revoked_at": token.revoked_at.map(|at| at.to_string()),
    })
}
