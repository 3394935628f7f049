//! Messages to an agent, built from jobs.

use std::sync::Arc;
use std::time::Duration;

use hodei_core::id::{AttemptId, WorkerId};
use hodei_core::job::Job;
use hodei_proto::v1::server_message::Body;
use hodei_proto::{convert, v1};

/// A job to send to its worker with its secrets.
#[derive(Debug)]
pub(crate) struct Preparation {
    pub(crate) worker: WorkerId,
    pub(crate) job: Arc<Job>,
}

/// Builds the message that stops an attempt.
pub(crate) fn cancel_of(attempt: AttemptId, dispatch: u64, grace: Duration) -> Body {
    let attempt = Some(convert::attempt_ref(attempt));
    Body::CancelJob(v1::CancelJob { attempt, dispatch, grace_micros: convert::micros(grace) })
}

/// Builds the assignment of a job for its worker, without its secrets; `None` when the job is not assigned.
pub(crate) fn assignment(job: &Job) -> Option<v1::Assignment> {
    let dispatch = job.assignment()?.dispatch;
    let attempt = Some(convert::attempt_ref(job.attempt_id()));
    let spec = Some(convert::work_to_wire(job.spec()));
    Some(v1::Assignment { attempt, dispatch, spec, ..v1::Assignment::default() })
}
