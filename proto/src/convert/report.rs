//! Reports, outcomes and usage of attempts: messages to domain and back.

use hodei_core::id::AttemptId;
use hodei_core::job::{AttemptReport, FailureCause, Outcome, Usage, limits};
use hodei_core::time::Timestamp;

use super::artifact::{artifact_list_from_wire, artifact_list_to_wire};
use super::{ConvertError, attempt_id, attempt_ref};
use crate::v1;
use crate::v1::outcome::Kind;

/// Returns the wire form of a report.
pub fn report_to_wire(attempt: AttemptId, report: &AttemptReport) -> v1::JobFinished {
    v1::JobFinished {
        attempt: Some(attempt_ref(attempt)),
        outcome: Some(outcome_to_wire(&report.outcome, report.exit_code)),
        started_at_micros: report.started_at.map_or(0, Timestamp::as_micros),
        finished_at_micros: report.finished_at.as_micros(),
        log_end: report.log_end,
        usage: report.usage.as_ref().map(usage_to_wire),
        artifacts: artifact_list_to_wire(&report.artifacts),
        interrupted: report.interrupted,
    }
}

/// Reads the report of a message.
///
/// # Errors
/// [`ConvertError`] when the attempt or the outcome is missing, or a field is malformed.
pub fn report_from_wire(message: v1::JobFinished) -> Result<(AttemptId, AttemptReport), ConvertError> {
    let attempt = attempt_id(message.attempt.as_ref())?;
    let outcome = message.outcome.ok_or(ConvertError::Missing("outcome"))?;
    let exit_code = outcome.exit_code;
    let outcome = match outcome_from_wire(outcome)? {
        // An agent may not report these causes: count them as a failure of the platform.
        Outcome::Failed(
            cause @ (FailureCause::Lost(_) | FailureCause::DispatchTimeout | FailureCause::Configuration(_)),
        ) => Outcome::Failed(FailureCause::Infrastructure(cause.to_string())),
        outcome => outcome,
    };
    let started_at =
        (message.started_at_micros != 0).then(|| Timestamp::from_micros(message.started_at_micros));
    let finished_at = Timestamp::from_micros(message.finished_at_micros);
    let (log_end, usage) = (message.log_end, message.usage.as_ref().map(usage_from_wire));
    if message.artifacts.len() > limits::STORED {
        return Err(ConvertError::Malformed("artifacts"));
    }
    let (artifacts, interrupted) = (artifact_list_from_wire(&message.artifacts)?, message.interrupted);
    let report =
        AttemptReport { outcome, exit_code, started_at, finished_at, log_end, usage, artifacts, interrupted };
    Ok((attempt, report))
}

/// Returns the wire form of a usage.
pub(super) fn usage_to_wire(usage: &Usage) -> v1::Usage {
    let Usage { cpu_micros, peak_memory_bytes } = *usage;
    v1::Usage { cpu_micros, peak_memory_bytes }
}

/// Reads the usage of a message.
pub(super) fn usage_from_wire(message: &v1::Usage) -> Usage {
    let v1::Usage { cpu_micros, peak_memory_bytes } = *message;
    Usage { cpu_micros, peak_memory_bytes }
}

/// Returns the wire form of an outcome.
pub fn outcome_to_wire(outcome: &Outcome, exit_code: Option<i32>) -> v1::Outcome {
    let (kind, detail, signal) = match outcome {
        Outcome::Succeeded => (Kind::Succeeded, "", 0),
        Outcome::Cancelled => (Kind::Cancelled, "", 0),
        Outcome::TimedOut => (Kind::TimedOut, "", 0),
        Outcome::Failed(cause) => match cause {
            FailureCause::CommandNotFound(program) => (Kind::CommandNotFound, program.as_str(), 0),
            FailureCause::PermissionDenied(program) => (Kind::PermissionDenied, program.as_str(), 0),
            FailureCause::FileNotFound(path) => (Kind::FileNotFound, path.as_str(), 0),
            FailureCause::Spawn(why) => (Kind::Spawn, why.as_str(), 0),
            FailureCause::SecretInjection(why) => (Kind::SecretInjection, why.as_str(), 0),
            FailureCause::Exit(_) => (Kind::Exit, "", 0),
            FailureCause::Signal(signal) => (Kind::Signal, "", *signal),
            FailureCause::OutOfMemory(limit) => (Kind::OutOfMemory, limit.as_str(), 0),
            FailureCause::Artifact(why) => (Kind::Artifact, why.as_str(), 0),
            FailureCause::Io(why) => (Kind::Io, why.as_str(), 0),
            FailureCause::Infrastructure(why) => (Kind::Infrastructure, why.as_str(), 0),
            FailureCause::Lost(why) => (Kind::Lost, why.as_str(), 0),
            FailureCause::DispatchTimeout => (Kind::DispatchTimeout, "", 0),
            FailureCause::Configuration(why) => (Kind::Configuration, why.as_str(), 0),
        },
    };
    let exit_code = match outcome {
        Outcome::Failed(FailureCause::Exit(code)) => Some(*code),
        _ => exit_code,
    };
    v1::Outcome { kind: kind.into(), detail: detail.to_owned(), signal, exit_code }
}

/// Reads the outcome of a message.
///
/// # Errors
/// [`ConvertError`] when this build does not know its kind, or the exit code of an exit is missing.
pub fn outcome_from_wire(message: v1::Outcome) -> Result<Outcome, ConvertError> {
    let v1::Outcome { kind, detail, signal, exit_code } = message;
    Ok(match Kind::try_from(kind).map_err(|_| ConvertError::Malformed("outcome.kind"))? {
        Kind::Unspecified => return Err(ConvertError::Malformed("outcome.kind")),
        Kind::Succeeded => Outcome::Succeeded,
        Kind::Cancelled => Outcome::Cancelled,
        Kind::TimedOut => Outcome::TimedOut,
        Kind::CommandNotFound => Outcome::Failed(FailureCause::CommandNotFound(detail)),
        Kind::PermissionDenied => Outcome::Failed(FailureCause::PermissionDenied(detail)),
        Kind::FileNotFound => Outcome::Failed(FailureCause::FileNotFound(detail)),
        Kind::Spawn => Outcome::Failed(FailureCause::Spawn(detail)),
        Kind::SecretInjection => Outcome::Failed(FailureCause::SecretInjection(detail)),
        Kind::Exit => {
            Outcome::Failed(FailureCause::Exit(exit_code.ok_or(ConvertError::Missing("outcome.exit_code"))?))
        }
        Kind::Signal => Outcome::Failed(FailureCause::Signal(signal)),
        Kind::OutOfMemory => Outcome::Failed(FailureCause::OutOfMemory(detail)),
        Kind::Artifact => Outcome::Failed(FailureCause::Artifact(detail)),
        Kind::Io => Outcome::Failed(FailureCause::Io(detail)),
        Kind::Infrastructure => Outcome::Failed(FailureCause::Infrastructure(detail)),
        Kind::Lost => Outcome::Failed(FailureCause::Lost(detail)),
        Kind::DispatchTimeout => Outcome::Failed(FailureCause::DispatchTimeout),
        Kind::Configuration => Outcome::Failed(FailureCause::Configuration(detail)),
    })
}

#[cfg(test)]
mod tests {
    use hodei_core::artifact::{Artifact, Digest};
    use hodei_core::id::JobId;

    use super::*;

    fn outcomes() -> Vec<Outcome> {
        let text = || "why".to_owned();
        let causes = [
            FailureCause::CommandNotFound(text()),
            FailureCause::PermissionDenied(text()),
            FailureCause::FileNotFound(text()),
            FailureCause::Spawn(text()),
            FailureCause::SecretInjection(text()),
            FailureCause::Exit(3),
            FailureCause::Signal(9),
            FailureCause::OutOfMemory(text()),
            FailureCause::Artifact(text()),
            FailureCause::Io(text()),
            FailureCause::Infrastructure(text()),
            FailureCause::Lost(text()),
            FailureCause::DispatchTimeout,
            FailureCause::Configuration(text()),
        ];
        let ended = [Outcome::Succeeded, Outcome::Cancelled, Outcome::TimedOut];
        ended.into_iter().chain(causes.map(Outcome::Failed)).collect()
    }

    #[test]
    fn every_outcome_round_trips() {
        for outcome in outcomes() {
            assert_eq!(outcome_from_wire(outcome_to_wire(&outcome, None)).unwrap(), outcome);
        }
    }

    #[test]
    fn a_report_round_trips_except_for_causes_that_an_agent_may_not_report() {
        let attempt = AttemptId { job: JobId::from_uuid(uuid::Uuid::from_u128(7)), number: 2 };
        for outcome in outcomes() {
            let started_at = Some(Timestamp::from_micros(5));
            let finished_at = Timestamp::from_micros(6);
            let usage = Some(Usage { cpu_micros: 7, peak_memory_bytes: 8 });
            let (name, sha256) = ("out/a".parse().unwrap(), Digest::from_bytes([9; 32]));
            let artifacts = vec![Artifact { name, bytes: 10, sha256, mode: None, is_link: true }];
            let (exit_code, log_end) = (Some(3), 4);
            let report = AttemptReport {
                outcome,
                exit_code,
                started_at,
                finished_at,
                log_end,
                usage,
                artifacts,
                interrupted: true,
            };
            let (id, got) = report_from_wire(report_to_wire(attempt, &report)).unwrap();
            assert_eq!(id, attempt);
            match report.outcome {
                Outcome::Failed(
                    FailureCause::Lost(_) | FailureCause::DispatchTimeout | FailureCause::Configuration(_),
                ) => {
                    assert!(matches!(got.outcome, Outcome::Failed(FailureCause::Infrastructure(_))));
                }
                _ => assert_eq!(got, report),
            }
        }
    }
}
