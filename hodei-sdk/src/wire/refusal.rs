//! Errors over the wire: a status, and in its details a `Refusal` that says it in fields.

use hodei_core::id::JobId;
use hodei_core::job::JobStatus;
use hodei_core::port::{ArtifactError, SecretError, StoreError};
use hodei_proto::convert::status_from_wire;
use hodei_proto::convert::{ConvertError, status_to_wire};
use hodei_proto::v1::Refusal;
use hodei_proto::v1::refusal::Reason;
use prost::Message;
use tonic::{Code, Status};

use crate::error::{Error, Refused};

/// The wire form of an error.
pub(crate) fn refusal(error: &Error) -> Refusal {
    let (code, reason) = match error {
        Error::Spec(_) | Error::Token(_) => (Code::InvalidArgument, Reason::Invalid),
        Error::Unsupported(_) => (Code::FailedPrecondition, Reason::Unsupported),
        Error::NotFound(_) => (Code::NotFound, Reason::NotFound),
        Error::NoWorker(_) => (Code::NotFound, Reason::NoWorker),
        Error::Denied(_) => (Code::PermissionDenied, Reason::Denied),
        Error::NoToken(_) => (Code::NotFound, Reason::NoToken),
        Error::AlreadyExists { what, .. } if *what == ID => (Code::AlreadyExists, Reason::IdTaken),
        Error::AlreadyExists { .. } => (Code::AlreadyExists, Reason::KeyTaken),
        Error::Ended { .. } => (Code::FailedPrecondition, Reason::Ended),
        Error::StillOpen { .. } => (Code::FailedPrecondition, Reason::Open),
        Error::QueueFull { .. } => (Code::ResourceExhausted, Reason::QueueFull),
        Error::Contended => (Code::Aborted, Reason::Contended),
        Error::ShuttingDown => (Code::Unavailable, Reason::ShuttingDown),
        Error::Store(error) if error.is_retryable() => (Code::Unavailable, Reason::StoreUnavailable),
        Error::Store(StoreError::Cursor | StoreError::Rejected(_)) => {
            (Code::InvalidArgument, Reason::Invalid)
        }
        Error::Store(StoreError::StaleEpoch { .. }) => (Code::Aborted, Reason::Contended),
        Error::Secret { .. } => (Code::FailedPrecondition, Reason::Secret),
        Error::NoSecrets | Error::Secrets(SecretError::ReadOnly(_)) => {
            (Code::FailedPrecondition, Reason::Secret)
        }
        Error::Secrets(SecretError::Unavailable(_)) => (Code::Unavailable, Reason::Secret),
        Error::Secrets(_) => (Code::Internal, Reason::Secret),
        Error::NoArtifact { .. } => (Code::NotFound, Reason::Artifact),
        Error::Artifacts(ArtifactError::Unavailable(_)) => (Code::Unavailable, Reason::Artifact),
        Error::Input { .. } | Error::NoArtifacts | Error::Artifacts(_) => {
            (Code::FailedPrecondition, Reason::Artifact)
        }
        Error::Refused(refused) => return from_refused(refused),
        Error::Open(_) | Error::Store(_) | Error::Log(_) => (Code::Internal, Reason::Store),
    };
    let (job, status) = match error {
        Error::NotFound(job) | Error::AlreadyExists { existing: job, .. } => (Some(*job), None),
        Error::Ended { job, status } | Error::StillOpen { job, status } => (Some(*job), Some(*status)),
        Error::NoArtifact { job, .. } => (Some(*job), None),
        _ => (None, None),
    };
    let field = match error {
        Error::NoArtifact { name, .. } => Some(name.as_str()),
        error => error.field(),
    };
    Refusal {
        code: code as i32,
        message: error.to_string(),
        reason: reason.into(),
        field: field.unwrap_or_default().to_owned(),
        job_id: job.map(|job| job.to_string()).unwrap_or_default(),
        status: status.map_or(0, |status| status_to_wire(status).into()),
        limit: match error {
            Error::QueueFull { limit } => *limit as u64,
            _ => 0,
        },
    }
}

/// How [`Error::AlreadyExists`] names the id.
pub(crate) const ID: &str = "the id";
/// How it names the idempotency key.
pub(crate) const KEY: &str = "the idempotency key";

fn from_refused(refused: &Refused) -> Refusal {
    Refusal {
        code: refused.code,
        message: refused.message.clone(),
        field: refused.field.clone().unwrap_or_default(),
        ..Refusal::default()
    }
}

/// The status of an error.
pub(crate) fn status(error: Error) -> Status {
    if let Error::Store(failed @ (StoreError::Other(_) | StoreError::Gone(_))) = &error {
        tracing::error!(error = %failed, "a call failed of the store");
    }
    status_of(refusal(&error))
}

fn status_of(refusal: Refusal) -> Status {
    let details = refusal.encode_to_vec().into();
    Status::with_details(Code::from_i32(refusal.code), refusal.message, details)
}

/// The status of a request that is malformed.
pub(crate) fn malformed(error: ConvertError) -> Status {
    status_of(malformed_refusal(error))
}

/// The refusal of an item that is malformed.
pub(crate) fn malformed_refusal(error: ConvertError) -> Refusal {
    Refusal {
        code: Code::InvalidArgument as i32,
        message: error.to_string(),
        reason: Reason::Invalid.into(),
        field: error.field().to_owned(),
        ..Refusal::default()
    }
}

/// The error of a refusal.
pub(crate) fn error(refusal: Refusal) -> Error {
    let job = refusal.job_id.parse::<JobId>().ok();
    let known: Option<JobStatus> = status_from_wire(refusal.status).ok();
    let ended = known.filter(|status| status.is_terminal());
    if let (Reason::Artifact, Some(job), Ok(name)) = (refusal.reason(), job, refusal.field.parse()) {
        return Error::NoArtifact { job, name };
    }
    match (refusal.reason(), job, ended) {
        (Reason::Open, Some(job), None) => {
            Error::StillOpen { job, status: known.unwrap_or(JobStatus::Created) }
        }
        (Reason::NotFound, Some(job), _) => Error::NotFound(job),
        (Reason::IdTaken, Some(existing), _) => Error::AlreadyExists { what: ID, existing },
        (Reason::KeyTaken, Some(existing), _) => Error::AlreadyExists { what: KEY, existing },
        (Reason::Ended, Some(job), Some(status)) => Error::Ended { job, status },
        (Reason::QueueFull, ..) => {
            Error::QueueFull { limit: usize::try_from(refusal.limit).unwrap_or(usize::MAX) }
        }
        (Reason::Contended, ..) => Error::Contended,
        (Reason::ShuttingDown, ..) => Error::ShuttingDown,
        _ => Error::Refused(Refused {
            code: refusal.code,
            field: (!refusal.field.is_empty()).then_some(refusal.field),
            message: refusal.message,
        }),
    }
}

/// The error of a failed call.
pub(crate) fn error_of(status: &Status) -> Error {
    match Refusal::decode(status.details()) {
        Ok(refusal) if refusal.code != 0 => error(refusal),
        _ => Error::Refused(Refused {
            code: status.code() as i32,
            field: None,
            message: status.message().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use hodei_core::provider::Unsupported;

    use super::*;
    use crate::JobSpec;

    #[test]
    fn an_error_is_the_same_on_the_other_side() {
        let job = JobId::from_uuid(uuid::Uuid::from_u128(7));
        let unsupported = Unsupported { field: "image", why: "nobody runs images".into() };
        let spec = JobSpec::shell("").build().unwrap_err();
        for original in [
            Error::Spec(spec),
            Error::Unsupported(unsupported),
            Error::NotFound(job),
            Error::AlreadyExists { what: ID, existing: job },
            Error::AlreadyExists { what: KEY, existing: job },
            Error::Ended { job, status: JobStatus::Failed },
            Error::QueueFull { limit: 3 },
            Error::NoArtifact { job, name: "out/日".parse().unwrap() },
            Error::Contended,
            Error::ShuttingDown,
        ] {
            let got = error_of(&status_of(refusal(&original)));
            assert_eq!(got.to_string(), original.to_string());
            assert_eq!(
                (got.field(), got.is_retryable()),
                (original.field(), original.is_retryable()),
                "{got:?}"
            );
        }
    }
}
