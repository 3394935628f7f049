//! Telling of limits that no worker holds a job to.

use hodei_sdk::worker::LimitHold;
use hodei_sdk::{Hodei, Job};

use crate::error::CliError;
use crate::term::show::tell;

/// What becomes of a limit that is not held, and what to do about it.
const UNHELD: &str = "no control group can be made there: limits of memory, processors and processes only say what a worker must have";

/// Warns who submits jobs with limits that no worker will hold them to. What cannot be asked is no failure: the jobs are
/// accepted.
pub(crate) async fn warn(hodei: &Hodei, has_limits: bool) {
    if has_limits && hodei.queue().status().await.is_ok_and(|queue| queue.limits == Some(LimitHold::Unheld)) {
        tell(format_args!("its limits will not be held: {UNHELD} (see \"Limits\" in docs/operations.md)"));
    }
}

/// Whether a job with limits is held to them, where it is or, before it is anywhere, where it could be; `None` for a job
/// without, and where it is not known.
pub(crate) async fn of(hodei: &Hodei, job: &Job) -> Result<Option<String>, CliError> {
    if job.spec().resources().limit().is_none() {
        return Ok(None);
    }
    let Some(id) = job.worker() else {
        let hold = hodei.queue().status().await?.limits.filter(|_| job.ending().is_none());
        return Ok(hold.map(|hold| match hold {
            LimitHold::Held => "held".to_owned(),
            LimitHold::Unheld => format!("will not be held: {UNHELD}"),
        }));
    };
    let hold = hodei.workers().get(id).await?.and_then(|worker| LimitHold::of(&worker.labels));
    Ok(hold.map(|hold| match hold {
        LimitHold::Held => "held".to_owned(),
        LimitHold::Unheld => format!("not held on worker {id}: {UNHELD}"),
    }))
}
