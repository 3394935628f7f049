//! Exit codes, which follow `timeout`, `env` and `docker run`.

use hodei_sdk::{FailureCause, Job, Outcome};

/// An artifact is missing: the job did not leave it.
pub(crate) const MISSING: u8 = 1;
/// Hodei itself failed.
pub(crate) const OWN_FAILURE: u8 = 125;
/// The job exceeded its timeout.
pub(crate) const TIMED_OUT: u8 = 124;
/// The program cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// The program was not found.
pub(crate) const NOT_FOUND: u8 = 127;
/// The terminal was closed: 128 + SIGHUP.
pub(crate) const HUNG_UP: u8 = 129;
/// Quit by Ctrl-\\: 128 + SIGQUIT.
pub(crate) const QUIT: u8 = 131;
/// Interrupted by Ctrl-C: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;
/// The reader of standard output closed it: 128 + SIGPIPE.
pub(crate) const BROKEN_PIPE: u8 = 141;
/// Asked to terminate: 128 + SIGTERM.
pub(crate) const TERMINATED: u8 = 143;

/// Returns the exit code for a job that ended.
pub(crate) fn code(job: &Job) -> u8 {
    let Some(ending) = job.ending() else { return OWN_FAILURE };
    match &ending.outcome {
        Outcome::Succeeded => 0,
        Outcome::Cancelled => INTERRUPTED,
        Outcome::TimedOut => TIMED_OUT,
        Outcome::Failed(FailureCause::Exit(code)) => u8::try_from(*code).unwrap_or(1),
        Outcome::Failed(FailureCause::Signal(signal)) => u8::try_from(128 + signal).unwrap_or(OWN_FAILURE),
        // 128 + SIGKILL: the kernel kills the job.
        Outcome::Failed(FailureCause::OutOfMemory(_)) => 137,
        Outcome::Failed(FailureCause::CommandNotFound(_)) => NOT_FOUND,
        Outcome::Failed(FailureCause::PermissionDenied(_)) => NOT_EXECUTABLE,
        Outcome::Failed(FailureCause::Artifact(_)) => MISSING,
        Outcome::Failed(_) => OWN_FAILURE,
    }
}

/// Returns the line for stderr about a job that ended; `None` when the exit code says enough.
pub(crate) fn message(job: &Job) -> Option<String> {
    match &job.ending()?.outcome {
        Outcome::Succeeded | Outcome::Cancelled | Outcome::Failed(FailureCause::Exit(_)) => None,
        Outcome::TimedOut => Some(match job.spec().timeout() {
            Some(limit) => format!("the job ran longer than its timeout of {limit:?}"),
            None => "the job did not start in time".to_owned(),
        }),
        Outcome::Failed(cause) => Some(cause.to_string()),
    }
}
