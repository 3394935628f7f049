//! Messages to an agent, made of the jobs that they are about.

use std::time::Duration;

use hodei_core::id::AttemptId;
use hodei_core::job::Job;
use hodei_proto::v1::server_message::Body;
use hodei_proto::{convert, v1};

/// The message that stops an attempt.
pub(crate) fn cancel_of(attempt: AttemptId, dispatch: u64, grace: Duration) -> Body {
    let attempt = Some(convert::attempt_ref(attempt));
    Body::CancelJob(v1::CancelJob { attempt, dispatch, grace_micros: convert::micros(grace) })
}

/// What a worker is told of a job that it has, without its secrets.
pub(crate) fn assignment(job: &Job) -> Option<v1::Assignment> {
    let dispatch = job.assignment()?.dispatch;
    let attempt = Some(convert::attempt_ref(job.attempt_id()));
    let spec = Some(convert::work_to_wire(job.spec()));
    Some(v1::Assignment { attempt, dispatch, spec, ..v1::Assignment::default() })
}
