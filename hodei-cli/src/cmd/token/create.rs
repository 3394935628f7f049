//! `hodei token create`: creates a token and prints it.

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
    /// Name of the token, such as the program or the person that uses it.
    name: String,
    /// Set the role: a viewer reads jobs, a submitter also submits and cancels jobs, an operator also drains workers
    /// and changes secrets, an admin also creates tokens.
    #[arg(long, value_name = "ROLE", default_value = "submitter")]
    role: Role,
    /// Restrict the token to the jobs and secrets of this tenant [default: your tenant].
    #[arg(long, value_name = "NAME")]
    tenant: Option<TenantId>,
    /// Let the token expire after this time, such as 12h or 90d [default: valid until revoked].
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
