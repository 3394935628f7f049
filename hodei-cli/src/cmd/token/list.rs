//! `hodei token list`: lists tokens.

use hodei_sdk::Hodei;
use hodei_sdk::access::{TokenTerms, TokenView};
use serde_json::json;

use super::token_json::token_json;
use crate::error::CliError;
use crate::term::show::{Format, lines, print, seconds, shown, table};

pub(super) async fn run(hodei: &Hodei, format: Format) -> Result<u8, CliError> {
    list(&hodei.tokens().list().await?, format)?;
    Ok(0)
}

fn list(tokens: &[TokenView], format: Format) -> Result<(), CliError> {
    if format == Format::Json {
        return print(&format!("{}\n", json!(tokens.iter().map(token_json).collect::<Vec<_>>())));
    }
    if tokens.is_empty() {
        return print("No tokens besides the daemon's own: `hodei token create NAME` creates one.\n");
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
