//! Reports on limits of jobs that no worker enforces.

use hodei_sdk::worker::LimitHold;
use hodei_sdk::{Hodei, Job};

use crate::error::CliError;
use crate::term::show::tell;

/// Why a limit is not enforced, and what it means then.
const NOT_ENFORCED_REASON: &str = "no control group can be made there, so limits of memory, processors and processes only say what a worker must have";

/// Warns on stderr if jobs with limits were submitted that no worker will enforce. A failed query is not an error: the
/// jobs are accepted.
pub(crate) async fn warn(hodei: &Hodei, has_limits: bool) {
    if has_limits && hodei.queue().status().await.is_ok_and(|queue| queue.limits == Some(LimitHold::Unheld)) {
        tell(format_args!(
            "the limits of the job will not be enforced: {NOT_ENFORCED_REASON} (see \"Limits of jobs\" in docs/operations.md)"
        ));
    }
}

/// Says whether the limits of a job are enforced on its worker or, before it has one, on the workers that it could get.
/// Returns `None` for a job without limits, and where it is unknown.
pub(crate) async fn of(hodei: &Hodei, job: &Job) -> Result<Option<String>, CliError> {
    if job.spec().resources().limit().is_none() {
        return Ok(None);
    }
    let Some(id) = job.worker() else {
        let hold = hodei.queue().status().await?.limits.filter(|_| job.ending().is_none());
        return Ok(hold.map(|hold| match hold {
            LimitHold::Held => "held".to_owned(),
            LimitHold::Unheld => format!("will not be held: {NOT_ENFORCED_REASON}"),
        }));
    };
    let hold = hodei.workers().get(id).await?.and_then(|worker| LimitHold::of(&worker.labels));
    Ok(hold.map(|hold| match hold {
        LimitHold::Held => "held".to_owned(),
        LimitHold::Unheld => format!("not held on worker {id}: {NOT_ENFORCED_REASON}"),
    }))
}
