//! The status of the queue and scheduling decisions over the wire.

use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::Score;
use hodei_core::event::Charge;
use hodei_core::scheduling::{Behind, Placement, PlacementEnd, SchedulingDecision, WaitCause, WaitingClass};
use hodei_proto::convert::{
    ConvertError, job_from_wire, job_to_wire, micros, outcome_from_wire, outcome_to_wire, parse, parse_some,
    time_from_wire, time_to_wire,
};
use hodei_proto::v1;

use hodei_core::scheduling::QueueStatus;
use hodei_core::worker::LimitHold;

/// The reasons to wait and their wire forms.
const WAIT_CAUSES: [(WaitCause, v1::WaitCause); 4] = [
    (WaitCause::Capacity, v1::WaitCause::Capacity),
    (WaitCause::Provisioning, v1::WaitCause::Provisioning),
    (WaitCause::Concurrency, v1::WaitCause::Concurrency),
    (WaitCause::Provider, v1::WaitCause::Provider),
];

/// Returns the wire form of the status of the queue.
pub(crate) fn queue_to_wire(queue: &QueueStatus) -> v1::GetQueueStatusResponse {
    v1::GetQueueStatusResponse {
        queued: queue.queued as u64,
        open: queue.open as u64,
        waiting: queue.waiting.iter().map(class_to_wire).collect(),
        feed_lag_micros: micros(queue.feed_lag),
        troubles: queue.troubles.clone(),
        holds_limits: queue.limits.map(|hold| hold == LimitHold::Held),
        fault: queue.fault.clone().unwrap_or_default(),
    }
}

/// Reads the status of the queue from a message.
pub(crate) fn queue_from_wire(message: v1::GetQueueStatusResponse) -> Result<QueueStatus, ConvertError> {
    Ok(QueueStatus {
        queued: count(message.queued),
        open: count(message.open),
        waiting: message.waiting.into_iter().map(class_from_wire).collect::<Result<_, _>>()?,
        feed_lag: Duration::from_micros(message.feed_lag_micros),
        troubles: message.troubles,
        limits: message.holds_limits.map(LimitHold::from),
        fault: Some(message.fault).filter(|fault| !fault.is_empty()),
    })
}

fn class_to_wire(class: &WaitingClass) -> v1::WaitingClass {
    let known = WAIT_CAUSES.iter().find(|(known, _)| *known == class.cause);
    let cause = known.map_or(v1::WaitCause::Unspecified, |(_, wire)| *wire).into();
    let head_job_id = class.head.map(|head| head.to_string()).unwrap_or_default();
    v1::WaitingClass { head_job_id, jobs: class.jobs as u64, cause }
}

fn class_from_wire(class: v1::WaitingClass) -> Result<WaitingClass, ConvertError> {
    let cause = WAIT_CAUSES.iter().find(|(_, wire)| *wire as i32 == class.cause);
    let cause = cause.ok_or(ConvertError::Malformed("waiting.cause"))?.0;
    let head = parse_some("waiting.head_job_id", &class.head_job_id)?;
    Ok(WaitingClass { head, jobs: count(class.jobs), cause })
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Returns the wire form of a scheduling decision.
pub(crate) fn decision_to_wire(decision: &SchedulingDecision) -> v1::GetSchedulingDecisionResponse {
    v1::GetSchedulingDecisionResponse {
        job: Some(job_to_wire(&decision.job)),
        waiting: decision.waiting.as_ref().map(class_to_wire),
        placements: decision.placements.iter().map(placement_to_wire).collect(),
        behind: decision.behind.as_ref().map(behind_to_wire),
    }
}

/// Reads a scheduling decision from a message.
pub(crate) fn decision_from_wire(
    message: v1::GetSchedulingDecisionResponse,
) -> Result<SchedulingDecision, ConvertError> {
    Ok(SchedulingDecision {
        job: Arc::new(job_from_wire(message.job.ok_or(ConvertError::Missing("job"))?)?),
        waiting: message.waiting.map(class_from_wire).transpose()?,
        behind: message.behind.map(behind_from_wire).transpose()?,
        placements: message.placements.into_iter().map(placement_from_wire).collect::<Result<_, _>>()?,
    })
}

fn behind_to_wire(behind: &Behind) -> v1::Behind {
    v1::Behind {
        worker_id: behind.worker.to_string(),
        is_next: behind.is_next,
        job_id: behind.job.map(|job| job.to_string()).unwrap_or_default(),
        others: behind.others as u64,
    }
}

fn behind_from_wire(message: v1::Behind) -> Result<Behind, ConvertError> {
    Ok(Behind {
        worker: parse("behind.worker_id", &message.worker_id)?,
        is_next: message.is_next,
        job: parse_some("behind.job_id", &message.job_id)?,
        others: count(message.others),
    })
}

fn placement_to_wire(placement: &Placement) -> v1::Placement {
    let parts = placement.score.parts.iter();
    v1::Placement {
        attempt: placement.attempt,
        worker_id: placement.worker.to_string(),
        score: parts
            .map(|(strategy, part)| v1::ScorePart { strategy: strategy.to_string(), part: *part })
            .collect(),
        assigned_at: Some(time_to_wire(placement.assigned_at)),
        started_at: placement.started_at.map(time_to_wire),
        ended_at: placement.end.as_ref().map(|end| time_to_wire(end.at)),
        outcome: placement.end.as_ref().and_then(|end| Some(outcome_to_wire(end.outcome.as_ref()?, None))),
        charge: charge_to_wire(placement.end.as_ref().and_then(|end| end.charge)).into(),
    }
}

fn placement_from_wire(message: v1::Placement) -> Result<Placement, ConvertError> {
    let charge = charge_from_wire(message.charge())?;
    let outcome = message.outcome.map(outcome_from_wire).transpose()?;
    let ended_at = message.ended_at.as_ref().map(time_from_wire);
    let assigned_at = message.assigned_at.as_ref().ok_or(ConvertError::Missing("placements.assigned_at"))?;
    Ok(Placement {
        attempt: message.attempt,
        worker: parse("placements.worker_id", &message.worker_id)?,
        score: Score {
            parts: message.score.into_iter().map(|part| (part.strategy.into(), part.part)).collect(),
        },
        assigned_at: time_from_wire(assigned_at),
        started_at: message.started_at.as_ref().map(time_from_wire),
        end: ended_at.map(|at| PlacementEnd { at, outcome, charge }),
    })
}

fn charge_to_wire(charge: Option<Charge>) -> v1::Charge {
    match charge {
        None => v1::Charge::Unspecified,
        Some(Charge::User) => v1::Charge::User,
        Some(Charge::Infrastructure) => v1::Charge::Infrastructure,
        Some(Charge::Nobody) => v1::Charge::Nobody,
    }
}

fn charge_from_wire(charge: v1::Charge) -> Result<Option<Charge>, ConvertError> {
    Ok(match charge {
        v1::Charge::Unspecified => None,
        v1::Charge::User => Some(Charge::User),
        v1::Charge::Infrastructure => Some(Charge::Infrastructure),
        v1::Charge::Nobody => Some(Charge::Nobody),
    })
}
