//! `hodei token create`.

use std::time::Duration;

use clap::Args;
use hodei_sdk::access::TokenTerms;
use hodei_sdk::job::TenantId;
use hodei_sdk::{Hodei, Role};
use serde_json::json;

use super::token_json::token_json;
use crate::error::CliError;
use crate::spec_args::duration;
use crate::term::show::{Format, object, print};

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

pub(super) async fn run(hodei: &Hodei, format: Format, args: CreateArgs) -> Result<u8, CliError> {
    let CreateArgs { name, role, tenant, life } = args;
    let tenant = tenant.unwrap_or_else(|| TenantId::new(""));
    let (token, text) = hodei.tokens().create(TokenTerms { name, tenant, role }, life).await?;
    if format == Format::Json {
        let mut json = token_json(&token);
        json["token"] = json!(text);
        object(&json, format)?;
    } else {
        print(&format!("{text}\n"))?;
    }
    Ok(0)
}
