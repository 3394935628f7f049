//! `hodei worker get`: shows one worker.

use hodei_sdk::{Error, Hodei};

use super::GetArgs;
use super::worker_json::worker_json;
use crate::error::CliError;
use crate::term::show::{Format, object};

pub(super) async fn run(hodei: &Hodei, format: Format, args: GetArgs) -> Result<u8, CliError> {
    let worker = hodei.workers().get(args.id).await?.ok_or(Error::NoWorker(args.id))?;
    object(&worker_json(&worker), format)?;
    Ok(0)
}
