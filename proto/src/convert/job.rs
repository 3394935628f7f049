//! Jobs and their states: messages to domain and back.

use std::sync::Arc;

use hodei_core::job::{
    Assignment, Ending, Job, JobRecord, JobState, JobStatus, Run, Tally, TenantId, WaitReason,
};

use super::artifact::{artifact_list_from_wire, artifact_list_to_wire};
use super::report::{usage_from_wire, usage_to_wire};
use super::{
    ConvertError, outcome_from_wire, outcome_to_wire, parse, parse_some, spec_from_wire, spec_to_wire,
};
use super::{time_from_wire, time_to_wire};
use crate::v1;
use crate::v1::job::State;
use crate::v1::waiting::Reason;

/// Returns the wire form of a status.
pub fn status_to_wire(status: JobStatus) -> v1::JobStatus {
    match status {
        JobStatus::Created => v1::JobStatus::Created,
        JobStatus::Pending => v1::JobStatus::Pending,
        JobStatus::Assigned => v1::JobStatus::Assigned,
        JobStatus::Running => v1::JobStatus::Running,
        JobStatus::Succeeded => v1::JobStatus::Succeeded,
        JobStatus::Failed => v1::JobStatus::Failed,
        JobStatus::Cancelled => v1::JobStatus::Cancelled,
        JobStatus::TimedOut => v1::JobStatus::TimedOut,
    }
}

/// Reads the status of a message.
///
/// # Errors
/// [`ConvertError`] when this build does not know the status.
pub fn status_from_wire(status: i32) -> Result<JobStatus, ConvertError> {
    let known = JobStatus::ALL.into_iter().find(|known| status_to_wire(*known) as i32 == status);
    known.ok_or(ConvertError::Malformed("status"))
}

/// Returns the wire form of a job.
pub fn job_to_wire(job: &Job) -> v1::Job {
    let JobRecord { version, state, attempt, tally, retry_of, created_at } = job.record();
    let Tally { user, infrastructure, uncharged, lost } = tally;
    v1::Job {
        id: job.id().to_string(),
        tenant: job.tenant().as_str().to_owned(),
        spec: Some(spec_to_wire(job.spec())),
        version,
        status: status_to_wire(job.status()).into(),
        attempt,
        retry_of: retry_of.map(|id| id.to_string()).unwrap_or_default(),
        created_at: Some(time_to_wire(created_at)),
        tally: Some(v1::Tally { user, infrastructure, uncharged, lost }),
        state: Some(state_to_wire(&state)),
    }
}

fn state_to_wire(state: &JobState) -> State {
    let assigned = |assignment: &Assignment, started_at| {
        State::Assigned(v1::Assigned {
            worker_id: assignment.worker.to_string(),
            dispatch: assignment.dispatch,
            at: Some(time_to_wire(assignment.at)),
            cancel_requested: assignment.cancel_requested,
            started_at,
        })
    };
    match state {
        JobState::Created { until, reason } => {
            let reason = match reason {
                WaitReason::NotBefore => Reason::NotBefore,
                WaitReason::Backoff => Reason::Backoff,
            };
            State::Waiting(v1::Waiting { until: Some(time_to_wire(*until)), reason: reason.into() })
        }
        JobState::Pending { since } => State::Queued(v1::Queued { since: Some(time_to_wire(*since)) }),
        JobState::Assigned(assignment) => assigned(assignment, None),
        JobState::Running { assignment, started_at } => assigned(assignment, Some(time_to_wire(*started_at))),
        JobState::Ended(Ending { outcome, at, run }) => State::Ended(v1::Ended {
            outcome: Some(outcome_to_wire(outcome, run.as_ref().and_then(|run| run.exit_code))),
            at: Some(time_to_wire(*at)),
            run: run.as_ref().map(|run| v1::Run {
                worker_id: run.worker.to_string(),
                started_at: run.started_at.map(time_to_wire),
                finished_at: Some(time_to_wire(run.finished_at)),
                exit_code: run.exit_code,
                log_end: run.log_end,
                usage: run.usage.as_ref().map(usage_to_wire),
                artifacts: artifact_list_to_wire(&run.artifacts),
            }),
        }),
    }
}

/// Reads the job of a message.
///
/// # Errors
/// [`ConvertError`] names the first field that is missing or malformed.
pub fn job_from_wire(message: v1::Job) -> Result<Job, ConvertError> {
    let v1::Tally { user, infrastructure, uncharged, lost } = message.tally.unwrap_or_default();
    let record = JobRecord {
        version: message.version,
        state: state_from_wire(message.state.ok_or(ConvertError::Missing("state"))?)?,
        attempt: message.attempt,
        tally: Tally { user, infrastructure, uncharged, lost },
        retry_of: parse_some("retry_of", &message.retry_of)?,
        created_at: time("created_at", message.created_at)?,
    };
    let spec = spec_from_wire(message.spec.ok_or(ConvertError::Missing("spec"))?)?;
    Ok(record.restore(parse("id", &message.id)?, TenantId::new(&message.tenant), Arc::new(spec)))
}

fn state_from_wire(state: State) -> Result<JobState, ConvertError> {
    Ok(match state {
        State::Waiting(waiting) => JobState::Created {
            reason: match waiting.reason() {
                Reason::NotBefore => WaitReason::NotBefore,
                Reason::Backoff => WaitReason::Backoff,
                Reason::Unspecified => return Err(ConvertError::Malformed("waiting.reason")),
            },
            until: time("waiting.until", waiting.until)?,
        },
        State::Queued(queued) => JobState::Pending { since: time("queued.since", queued.since)? },
        State::Assigned(assigned) => {
            let assignment = Assignment {
                worker: parse("assigned.worker_id", &assigned.worker_id)?,
                dispatch: assigned.dispatch,
                at: time("assigned.at", assigned.at)?,
                cancel_requested: assigned.cancel_requested,
            };
            match assigned.started_at {
                Some(at) => JobState::Running { assignment, started_at: time_from_wire(&at) },
                None => JobState::Assigned(assignment),
            }
        }
        State::Ended(ended) => JobState::Ended(Ending {
            outcome: outcome_from_wire(ended.outcome.ok_or(ConvertError::Missing("ended.outcome"))?)?,
            at: time("ended.at", ended.at)?,
            run: ended.run.map(run_from_wire).transpose()?,
        }),
    })
}

fn run_from_wire(run: v1::Run) -> Result<Run, ConvertError> {
    Ok(Run {
        worker: parse("run.worker_id", &run.worker_id)?,
        started_at: run.started_at.as_ref().map(time_from_wire),
        finished_at: time("run.finished_at", run.finished_at)?,
        exit_code: run.exit_code,
        log_end: run.log_end,
        usage: run.usage.as_ref().map(usage_from_wire),
        artifacts: artifact_list_from_wire(&run.artifacts)?,
    })
}

fn time(
    field: &'static str,
    at: Option<prost_types::Timestamp>,
) -> Result<hodei_core::time::Timestamp, ConvertError> {
    at.as_ref().map(time_from_wire).ok_or(ConvertError::Missing(field))
}

#[cfg(test)]
mod tests {
    use hodei_core::artifact::{Artifact, Digest};
    use hodei_core::id::{JobId, WorkerId};
    use hodei_core::job::{FailureCause, JobSpec, Outcome, Usage};
    use hodei_core::time::Timestamp;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_job_round_trips_in_every_state() {
        let at = Timestamp::from_micros;
        let worker = WorkerId::from_uuid(Uuid::from_u128(5));
        let assignment = Assignment { worker, dispatch: 9, at: at(3), cancel_requested: true };
        let name = "out/a".parse().unwrap();
        let run = Run {
            worker,
            started_at: Some(at(4)),
            finished_at: at(5),
            exit_code: Some(3),
            log_end: 6,
            usage: Some(Usage { cpu_micros: 7, peak_memory_bytes: 8 }),
            artifacts: vec![Artifact {
                name,
                bytes: 10,
                sha256: Digest::from_bytes([9; 32]),
                mode: Some(0o755),
                is_link: false,
            }],
        };
        let states = [
            JobState::Created { until: at(9), reason: WaitReason::Backoff },
            JobState::Created { until: at(9), reason: WaitReason::NotBefore },
            JobState::Pending { since: at(2) },
            JobState::Assigned(assignment.clone()),
            JobState::Running { assignment, started_at: at(4) },
            JobState::Ended(Ending {
                outcome: Outcome::Failed(FailureCause::Exit(3)),
                at: at(7),
                run: Some(run),
            }),
            JobState::Ended(Ending { outcome: Outcome::Cancelled, at: at(7), run: None }),
        ];
        for state in states {
            let record = JobRecord {
                version: 4,
                state,
                attempt: 2,
                tally: Tally { user: 1, infrastructure: 2, uncharged: 3, lost: 1 },
                retry_of: Some(JobId::from_uuid(Uuid::from_u128(8))),
                created_at: at(1),
            };
            let spec = Arc::new(JobSpec::command(["true"]).label("a", "b").build().unwrap());
            let job = record.restore(JobId::from_uuid(Uuid::from_u128(7)), TenantId::new("t"), spec);
            let message = job_to_wire(&job);
            assert_eq!(status_from_wire(message.status).unwrap(), job.status());
            assert_eq!(job_from_wire(message).unwrap(), job);
        }
    }
}
