//! Runs an attempt by an executor that may panic, and builds the report for an executor that panics or does not stop.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hodei_core::job::{AttemptReport, FailureCause, Outcome};
use hodei_core::time::Timestamp;

use crate::executor::{Executor, Job, Output, StopReason, StopSignal, stopped};

/// Runs an attempt. Returns the report of the executor, or a failure with the panic message if it panics. `now` is the
/// time of the call. It counts as the start of an attempt whose executor panicked, since processes may have run by
/// then.
pub(super) async fn run(
    executor: &dyn Executor,
    job: Job,
    stop: StopSignal,
    output: Output,
    now: Timestamp,
) -> AttemptReport {
    let attempt = job.attempt;
    let mut run = match caught(|| executor.run(job, stop, output)) {
        Ok(run) => run,
        Err(why) => return panicked(&why, now),
    };
    let ended = poll_fn(|context| match caught(|| run.as_mut().poll(context)) {
        Ok(poll) => poll.map(Ok),
        Err(why) => std::task::Poll::Ready(Err(why)),
    });
    let ended = ended.await;
    // The drop of its state may panic too.
    if let Err(why) = caught(|| drop(run)) {
        tracing::error!(%attempt, %why, "an executor panicked after its attempt was over");
    }
    ended.unwrap_or_else(|why| {
        tracing::error!(%attempt, %why, "an executor panicked");
        panicked(&why, now)
    })
}

/// Returns the report of an attempt whose executor did not stop it. The attempt counts as started, since it may have
/// been.
pub(super) fn given_up(reason: StopReason, started_at: Option<Timestamp>, now: Timestamp) -> AttemptReport {
    let unstarted = AttemptReport::unstarted(stopped(reason), now);
    AttemptReport { started_at: Some(started_at.unwrap_or(now)), ..unstarted }
}

fn panicked(why: &str, now: Timestamp) -> AttemptReport {
    let cause = FailureCause::Infrastructure(format!("the executor panicked: {why}"));
    AttemptReport { started_at: Some(now), ..AttemptReport::unstarted(Outcome::Failed(cause), now) }
}

/// Returns the result of a call, or the message of its panic.
fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    // Unwind safe: after a panic the caller only drops the state of the call.
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let message = message_of(&*payload);
        // The drop of the payload may panic, with a payload whose drop panics too.
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(another);
        }
        message
    })
}

/// Returns the message of a panic, at most [`MAX_PANIC_MESSAGE_BYTES`] bytes: it is stored with the job.
fn message_of(payload: &(dyn Any + Send)) -> String {
    let message = payload.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a message");
    message.get(..message.floor_char_boundary(MAX_PANIC_MESSAGE_BYTES)).unwrap_or(message).to_owned()
}

/// Maximum length of the kept message of a panic, in bytes.
const MAX_PANIC_MESSAGE_BYTES: usize = 1024;
