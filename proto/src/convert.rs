//! Messages to domain and back. What a peer sends is checked here, once.

use std::time::Duration;

use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::{
    AttemptReport, Command, FailureCause, JobResources, JobSpec, JobSpecBuilder, Outcome, SpecError,
};
use hodei_core::port::LogStream;
use hodei_core::time::Timestamp;

use crate::v1;
use crate::v1::outcome::Kind;

/// A message that breaks its own form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field has a value that it cannot have.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// A spec that breaks a limit.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// The wire form of an attempt.
pub fn attempt_ref(attempt: AttemptId) -> v1::AttemptRef {
    let job_id = bytes::Bytes::copy_from_slice(attempt.job.as_uuid().as_bytes());
    v1::AttemptRef { job_id, attempt: attempt.number }
}

/// The attempt that a message speaks of.
///
/// # Errors
/// [`ConvertError`] when it is missing or no id.
pub fn attempt_id(message: Option<&v1::AttemptRef>) -> Result<AttemptId, ConvertError> {
    let message = message.ok_or(ConvertError::Missing("attempt"))?;
    let job = JobId::from_slice(&message.job_id).ok_or(ConvertError::Malformed("attempt.job_id"))?;
    Ok(AttemptId { job, number: message.attempt })
}

/// What an agent needs of a spec.
pub fn spec_to_wire(spec: &JobSpec) -> v1::JobSpec {
    use v1::job_spec::Command as Wire;
    let command = match spec.what() {
        Command::Argv(words) => Wire::Argv(v1::Argv { words: words.clone() }),
        Command::Shell(line) => Wire::Shell(line.clone()),
        Command::Script { interpreter, source } => Wire::Script(v1::Script {
            interpreter: interpreter.clone().unwrap_or_default(),
            source: source.clone(),
        }),
    };
    v1::JobSpec {
        command: Some(command),
        env: spec.env().clone(),
        working_dir: spec.working_dir().unwrap_or_default().to_owned(),
        stdin: spec.stdin().clone(),
        timeout_micros: spec.timeout().map_or(0, micros),
        kill_grace_micros: micros(spec.kill_grace()),
    }
}

/// The spec of a message, checked as at a submit.
///
/// # Errors
/// [`ConvertError`] when it has no command or breaks a limit.
pub fn spec_from_wire(message: v1::JobSpec) -> Result<JobSpec, ConvertError> {
    use v1::job_spec::Command as Wire;
    let command = match message.command.ok_or(ConvertError::Missing("spec.command"))? {
        Wire::Argv(argv) => Command::Argv(argv.words),
        Wire::Shell(line) => Command::Shell(line),
        Wire::Script(v1::Script { interpreter, source }) => {
            let interpreter = (!interpreter.is_empty()).then_some(interpreter);
            Command::Script { interpreter, source }
        }
    };
    let mut builder = JobSpecBuilder::new(command)
        .working_dir(message.working_dir)
        .stdin(message.stdin)
        .kill_grace(Duration::from_micros(message.kill_grace_micros));
    if message.timeout_micros > 0 {
        builder = builder.timeout(Duration::from_micros(message.timeout_micros));
    }
    for (key, value) in message.env {
        builder = builder.env(key, value);
    }
    Ok(builder.build()?)
}

/// The wire form of resources.
pub fn resources_to_wire(resources: &JobResources) -> v1::Resources {
    let JobResources { cpu_millis, memory_bytes, disk_bytes, gpus } = *resources;
    v1::Resources { cpu_millis, memory_bytes, disk_bytes, gpus }
}

/// The resources of a message.
pub fn resources_from_wire(message: &v1::Resources) -> JobResources {
    let v1::Resources { cpu_millis, memory_bytes, disk_bytes, gpus } = *message;
    JobResources { cpu_millis, memory_bytes, disk_bytes, gpus }
}

/// The wire form of a report.
pub fn report_to_wire(attempt: AttemptId, report: &AttemptReport) -> v1::JobFinished {
    let (kind, detail, signal) = match &report.outcome {
        Outcome::Succeeded => (Kind::Succeeded, "", 0),
        Outcome::Cancelled => (Kind::Cancelled, "", 0),
        Outcome::TimedOut => (Kind::TimedOut, "", 0),
        Outcome::Failed(cause) => match cause {
            FailureCause::CommandNotFound(what) => (Kind::CommandNotFound, what.as_str(), 0),
            FailureCause::PermissionDenied(what) => (Kind::PermissionDenied, what.as_str(), 0),
            FailureCause::FileNotFound(what) => (Kind::FileNotFound, what.as_str(), 0),
            FailureCause::Spawn(why) => (Kind::Spawn, why.as_str(), 0),
            FailureCause::Exit(_) => (Kind::Exit, "", 0),
            FailureCause::Signal(signal) => (Kind::Signal, "", *signal),
            FailureCause::Io(why) => (Kind::Io, why.as_str(), 0),
            // The rest is never an agent's word; should it be one, it is the platform's failure.
            FailureCause::Infrastructure(why)
            | FailureCause::Lost(why)
            | FailureCause::Configuration(why) => (Kind::Infrastructure, why.as_str(), 0),
            FailureCause::DispatchTimeout => (Kind::Infrastructure, "dispatch timeout", 0),
        },
    };
    let outcome =
        v1::Outcome { kind: kind.into(), detail: detail.to_owned(), signal, exit_code: report.exit_code };
    v1::JobFinished {
        attempt: Some(attempt_ref(attempt)),
        outcome: Some(outcome),
        started_at_micros: report.started_at.map_or(0, Timestamp::as_micros),
        finished_at_micros: report.finished_at.as_micros(),
        log_end: report.log_end,
    }
}

/// The report of a message.
///
/// # Errors
/// [`ConvertError`] when it names no attempt or no outcome.
pub fn report_from_wire(message: v1::JobFinished) -> Result<(AttemptId, AttemptReport), ConvertError> {
    let attempt = attempt_id(message.attempt.as_ref())?;
    let v1::Outcome { kind, detail, signal, exit_code } =
        message.outcome.ok_or(ConvertError::Missing("outcome"))?;
    let outcome = match Kind::try_from(kind).map_err(|_| ConvertError::Malformed("outcome.kind"))? {
        Kind::Unspecified => return Err(ConvertError::Malformed("outcome.kind")),
        Kind::Succeeded => Outcome::Succeeded,
        Kind::Cancelled => Outcome::Cancelled,
        Kind::TimedOut => Outcome::TimedOut,
        Kind::CommandNotFound => Outcome::Failed(FailureCause::CommandNotFound(detail)),
        Kind::PermissionDenied => Outcome::Failed(FailureCause::PermissionDenied(detail)),
        Kind::FileNotFound => Outcome::Failed(FailureCause::FileNotFound(detail)),
        Kind::Spawn => Outcome::Failed(FailureCause::Spawn(detail)),
        Kind::Exit => {
            Outcome::Failed(FailureCause::Exit(exit_code.ok_or(ConvertError::Missing("outcome.exit_code"))?))
        }
        Kind::Signal => Outcome::Failed(FailureCause::Signal(signal)),
        Kind::Io => Outcome::Failed(FailureCause::Io(detail)),
        Kind::Infrastructure => Outcome::Failed(FailureCause::Infrastructure(detail)),
    };
    let started_at =
        (message.started_at_micros != 0).then(|| Timestamp::from_micros(message.started_at_micros));
    let finished_at = Timestamp::from_micros(message.finished_at_micros);
    Ok((attempt, AttemptReport { outcome, exit_code, started_at, finished_at, log_end: message.log_end }))
}

/// The wire form of a log stream.
pub fn stream_to_wire(stream: LogStream) -> v1::log_chunk::Stream {
    match stream {
        LogStream::Stdout => v1::log_chunk::Stream::Stdout,
        LogStream::Stderr => v1::log_chunk::Stream::Stderr,
    }
}

/// The log stream of a chunk.
///
/// # Errors
/// [`ConvertError`] when it is neither of the two.
pub fn stream_from_wire(stream: i32) -> Result<LogStream, ConvertError> {
    match v1::log_chunk::Stream::try_from(stream) {
        Ok(v1::log_chunk::Stream::Stdout) => Ok(LogStream::Stdout),
        Ok(v1::log_chunk::Stream::Stderr) => Ok(LogStream::Stderr),
        _ => Err(ConvertError::Malformed("chunk.stream")),
    }
}

/// Microseconds of a duration, at most `u64::MAX`.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_reaches_the_agent_whole() {
        let spec = JobSpec::script("echo hi")
            .interpreter("sh -e")
            .env("A", "b")
            .working_dir("/tmp")
            .stdin("in")
            .timeout(Duration::from_millis(1500))
            .build()
            .unwrap();
        assert_eq!(spec_from_wire(spec_to_wire(&spec)).unwrap(), spec);
    }

    #[test]
    fn a_report_round_trips_with_every_outcome() {
        let attempt = AttemptId { job: JobId::from_uuid(uuid::Uuid::from_u128(7)), number: 2 };
        let text = || "why".to_owned();
        for outcome in [
            Outcome::Succeeded,
            Outcome::Cancelled,
            Outcome::TimedOut,
            Outcome::Failed(FailureCause::CommandNotFound(text())),
            Outcome::Failed(FailureCause::PermissionDenied(text())),
            Outcome::Failed(FailureCause::FileNotFound(text())),
            Outcome::Failed(FailureCause::Spawn(text())),
            Outcome::Failed(FailureCause::Exit(3)),
            Outcome::Failed(FailureCause::Signal(9)),
            Outcome::Failed(FailureCause::Io(text())),
            Outcome::Failed(FailureCause::Infrastructure(text())),
        ] {
            let started_at = Some(Timestamp::from_micros(5));
            let finished_at = Timestamp::from_micros(6);
            let report = AttemptReport { outcome, exit_code: Some(3), started_at, finished_at, log_end: 4 };
            assert_eq!(report_from_wire(report_to_wire(attempt, &report)).unwrap(), (attempt, report));
        }
    }

    #[test]
    fn a_malformed_message_is_refused_by_field() {
        let bad = v1::AttemptRef { job_id: bytes::Bytes::from_static(b"short"), attempt: 1 };
        assert_eq!(attempt_id(Some(&bad)), Err(ConvertError::Malformed("attempt.job_id")));
        assert_eq!(attempt_id(None), Err(ConvertError::Missing("attempt")));
        assert_eq!(spec_from_wire(v1::JobSpec::default()), Err(ConvertError::Missing("spec.command")));
        assert_eq!(stream_from_wire(9), Err(ConvertError::Malformed("chunk.stream")));
    }
}
