//! `hodei job get`: shows one job with its spec.

use crate::cmd::job::place::OneArgs;
use crate::error::CliError;
use crate::job_json::{job_json, spec_json};
use crate::limits;
use crate::target::Target;
use crate::term::show::{Format, object};

pub(super) async fn run(target: &Target, format: Format, args: OneArgs) -> Result<u8, CliError> {
    let hodei = target.open(args.place.dir()).await?;
    let job = hodei.jobs().get(args.id).await?;
    let mut shown = job_json(&job);
    if let Some(limits) = limits::of(&hodei, &job).await? {
        shown["limits"] = limits.into();
    }
    shown["spec"] = spec_json(job.spec());
    object(&shown, format)?;
    Ok(0)
}
