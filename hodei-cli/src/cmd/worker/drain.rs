//! `hodei worker drain`: drains a worker.

use hodei_sdk::Hodei;

use super::GetArgs;
use super::worker_json::worker_json;
use crate::error::CliError;
use crate::term::show::{Format, object};

pub(super) async fn run(hodei: &Hodei, format: Format, args: GetArgs) -> Result<u8, CliError> {
    object(&worker_json(&hodei.workers().drain(args.id).await?), format)?;
    Ok(0)
}
