//! What both ends of a call agree on beside the messages.

pub(crate) mod event;
pub(crate) mod refusal;

use hodei_core::scheduling::WaitCause;
use hodei_proto::v1;

use crate::app::QueueStatus;

const CAUSES: [(WaitCause, v1::WaitCause); 4] = [
    (WaitCause::Capacity, v1::WaitCause::Capacity),
    (WaitCause::Provisioning, v1::WaitCause::Provisioning),
    (WaitCause::Concurrency, v1::WaitCause::Concurrency),
    (WaitCause::Provider, v1::WaitCause::Provider),
];

/// The wire form of the queue.
pub(crate) fn queue_to_wire(queue: &QueueStatus) -> v1::GetQueueStatusResponse {
    let waiting = queue.waiting.iter().map(|(head, jobs, cause)| {
        let known = CAUSES.iter().find(|(known, _)| known == cause);
        let cause = known.map_or(v1::WaitCause::Unspecified, |(_, wire)| *wire).into();
        v1::WaitingClass { head_job_id: head.to_string(), jobs: *jobs as u64, cause }
    });
    v1::GetQueueStatusResponse {
        queued: queue.queued as u64,
        open: queue.open as u64,
        waiting: waiting.collect(),
    }
}

/// The queue of a message.
pub(crate) fn queue_from_wire(
    message: v1::GetQueueStatusResponse,
) -> Result<QueueStatus, hodei_proto::convert::ConvertError> {
    use hodei_proto::convert::{ConvertError, parse};
    let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
    let class = |class: v1::WaitingClass| {
        let cause = CAUSES.iter().find(|(_, wire)| *wire as i32 == class.cause);
        let cause = cause.ok_or(ConvertError::Malformed("waiting.cause"))?.0;
        let head = parse("waiting.head_job_id", &class.head_job_id)?;
        Ok::<_, ConvertError>((head, count(class.jobs), cause))
    };
    Ok(QueueStatus {
        queued: count(message.queued),
        open: count(message.open),
        waiting: message.waiting.into_iter().map(class).collect::<Result<_, _>>()?,
    })
}
