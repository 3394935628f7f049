//! Conversions from messages to domain values and back. Messages of a peer are validated here, and only here.

mod access;
mod artifact;
mod job;
mod report;
mod secret;
mod spec;
mod worker;

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::{JobResources, SpecError};
use hodei_core::port::LogStream;
use hodei_core::time::Timestamp;

use crate::v1;

pub use access::{terms_from_wire, terms_to_wire, token_from_wire, token_to_wire};
pub use artifact::{artifact_from_wire, artifact_to_wire};
pub use job::{job_from_wire, job_to_wire, status_from_wire, status_to_wire};
pub use report::{outcome_from_wire, outcome_to_wire, report_from_wire, report_to_wire};
pub use secret::{secret_to_wire, secret_value, secrets_from_wire, secrets_to_wire};
pub use spec::{spec_from_wire, spec_to_wire, work_to_wire};
pub use worker::{metrics_from_wire, metrics_to_wire, worker_from_wire, worker_to_wire};

/// A message that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A required field is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The value of a field is not valid.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// The text of a field cannot be parsed.
    #[error("{field}: {why}")]
    Text {
        /// The field.
        field: &'static str,
        /// The error of the parser.
        why: String,
    },
    /// A spec that breaks a limit.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl ConvertError {
    /// Returns the field that is not valid.
    pub fn field(&self) -> &str {
        match self {
            Self::Missing(field) | Self::Malformed(field) | Self::Text { field, .. } => field,
            Self::Spec(error) => error.field(),
        }
    }
}

/// Parses a text of a message.
///
/// # Errors
/// [`ConvertError::Text`] with the error of the parser.
pub fn parse<T: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<T, ConvertError> {
    text.parse().map_err(|error: T::Err| ConvertError::Text { field, why: error.to_string() })
}

/// Parses a text like [`parse`]; `None` for an empty text.
///
/// # Errors
/// As [`parse`].
pub fn parse_some<T: FromStr<Err: Display>>(
    field: &'static str,
    text: &str,
) -> Result<Option<T>, ConvertError> {
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

/// Returns the wire form of an attempt.
pub fn attempt_ref(attempt: AttemptId) -> v1::AttemptRef {
    let job_id = bytes::Bytes::copy_from_slice(attempt.job.as_uuid().as_bytes());
    v1::AttemptRef { job_id, attempt: attempt.number }
}

/// Reads the attempt of a message.
///
/// # Errors
/// [`ConvertError`] when it is missing or its job id is not valid.
pub fn attempt_id(message: Option<&v1::AttemptRef>) -> Result<AttemptId, ConvertError> {
    let message = message.ok_or(ConvertError::Missing("attempt"))?;
    let job = JobId::from_slice(&message.job_id).ok_or(ConvertError::Malformed("attempt.job_id"))?;
    Ok(AttemptId { job, number: message.attempt })
}

/// Returns the wire form of resources.
pub fn resources_to_wire(resources: &JobResources) -> v1::Resources {
    let JobResources { cpu_millis, memory_bytes, disk_bytes, gpus, pids } = *resources;
    v1::Resources { cpu_millis, memory_bytes, disk_bytes, gpus, pids }
}

/// Reads the resources of a message.
pub fn resources_from_wire(message: &v1::Resources) -> JobResources {
    let v1::Resources { cpu_millis, memory_bytes, disk_bytes, gpus, pids } = *message;
    JobResources { cpu_millis, memory_bytes, disk_bytes, gpus, pids }
}

/// Returns the wire form of a log stream.
pub fn stream_to_wire(stream: LogStream) -> v1::LogStream {
    match stream {
        LogStream::Stdout => v1::LogStream::Stdout,
        LogStream::Stderr => v1::LogStream::Stderr,
    }
}

/// Reads the log stream of a message.
///
/// # Errors
/// [`ConvertError`] when it is neither of the two.
pub fn stream_from_wire(stream: i32) -> Result<LogStream, ConvertError> {
    match v1::LogStream::try_from(stream) {
        Ok(v1::LogStream::Stdout) => Ok(LogStream::Stdout),
        Ok(v1::LogStream::Stderr) => Ok(LogStream::Stderr),
        _ => Err(ConvertError::Malformed("stream")),
    }
}

/// Returns a duration in microseconds, at most `u64::MAX`.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Returns the wire form of a point in time.
pub fn time_to_wire(at: Timestamp) -> prost_types::Timestamp {
    let (seconds, micros) = (at.as_micros().div_euclid(1_000_000), at.as_micros().rem_euclid(1_000_000));
    prost_types::Timestamp { seconds, nanos: micros as i32 * 1000 }
}

/// Reads the point in time of a message, to the microsecond.
pub fn time_from_wire(at: &prost_types::Timestamp) -> Timestamp {
    let micros = at.seconds.saturating_mul(1_000_000).saturating_add(i64::from(at.nanos) / 1000);
    Timestamp::from_micros(micros)
}

/// Parses a point in time of RFC 3339; `None` for any other text.
pub fn time_from_text(text: &str) -> Option<Timestamp> {
    text.parse().ok().map(|at| time_from_wire(&at))
}

fn duration_to_wire(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: duration.subsec_nanos() as i32 }
}

fn duration_from_wire(
    field: &'static str,
    duration: &prost_types::Duration,
) -> Result<Duration, ConvertError> {
    match (u64::try_from(duration.seconds), u32::try_from(duration.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(ConvertError::Malformed(field)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_malformed_message_names_the_field() {
        let bad = v1::AttemptRef { job_id: bytes::Bytes::from_static(b"short"), attempt: 1 };
        assert_eq!(attempt_id(Some(&bad)), Err(ConvertError::Malformed("attempt.job_id")));
        assert_eq!(attempt_id(None), Err(ConvertError::Missing("attempt")));
        assert_eq!(stream_from_wire(9), Err(ConvertError::Malformed("stream")));
        let error = parse::<JobId>("job_id", "x").unwrap_err();
        assert!(error.to_string().starts_with("job_id: `x` is not a JobId"), "{error}");
    }

    #[test]
    fn time_and_duration_round_trip() {
        for micros in [0, 1, -1, 1_700_000_000_123_456] {
            let at = Timestamp::from_micros(micros);
            assert_eq!(time_from_wire(&time_to_wire(at)), at);
        }
        let duration = Duration::new(3, 5);
        assert_eq!(duration_from_wire("x", &duration_to_wire(duration)), Ok(duration));
        let negative = prost_types::Duration { seconds: -1, nanos: 0 };
        assert_eq!(duration_from_wire("timeout", &negative), Err(ConvertError::Malformed("timeout")));
    }
}
