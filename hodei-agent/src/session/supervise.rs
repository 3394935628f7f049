//! Runs one attempt by an executor that may panic, and reports for one that does not stop.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hodei_core::job::{AttemptReport, FailureCause, Outcome};
use hodei_core::time::Timestamp;

use crate::executor::{Executor, Job, Output, StopReason, StopSignal, stopped};

/// The report of an executor; of one that panics, a failure with the message of the panic. `now` is when it is handed the
/// job: what had begun before the panic is not known, so that is taken for the start.
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
    // What it holds may panic too when it goes.
    if let Err(why) = caught(|| drop(run)) {
        tracing::error!(%attempt, %why, "an executor panicked after its attempt was over");
    }
    ended.unwrap_or_else(|why| {
        tracing::error!(%attempt, %why, "an executor panicked");
        panicked(&why, now)
    })
}

/// The report of an attempt whose executor did not stop it. One that it said nothing of may have begun.
pub(super) fn given_up(reason: StopReason, started_at: Option<Timestamp>, now: Timestamp) -> AttemptReport {
    let unstarted = AttemptReport::unstarted(stopped(reason), now);
    AttemptReport { started_at: Some(started_at.unwrap_or(now)), ..unstarted }
}

fn panicked(why: &str, now: Timestamp) -> AttemptReport {
    let cause = FailureCause::Infrastructure(format!("the executor panicked: {why}"));
    AttemptReport { started_at: Some(now), ..AttemptReport::unstarted(Outcome::Failed(cause), now) }
}

/// What a call gives, or the message that it panics with.
fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    // After a panic nothing is used of what it saw: it is dropped.
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let words = message_of(&*payload);
        // It may panic when it goes, and so may what that panics with.
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(another);
        }
        words
    })
}

/// A panic's own words: at most [`LONGEST_MESSAGE`] bytes, since they are stored with the job.
fn message_of(payload: &(dyn Any + Send)) -> String {
    let words = payload.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a message");
    words.get(..words.floor_char_boundary(LONGEST_MESSAGE)).unwrap_or(words).to_owned()
}

/// The longest message of a panic that is kept, in bytes.
const LONGEST_MESSAGE: usize = 1024;
