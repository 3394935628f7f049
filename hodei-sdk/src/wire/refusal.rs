//! Errors over the wire: a status, and in its details a `Refusal` that carries the error field by field.
//!
//! Each variant of [`Error`] that a call can return comes back as the same variant. `kind` tells variants of one reason
//! apart; an older peer leaves it empty, and its refusal becomes [`Error::Refused`] where the reason alone does not say which
//! variant it was.

use std::time::Duration;

use hodei_core::access::{Action, Denied, Role};
use hodei_core::id::JobId;
use hodei_core::job::{JobStatus, SpecError};
use hodei_core::port::{ArtifactError, Epoch, LogError, SecretError, StoreError};
use hodei_core::provider::Unsupported;
use hodei_proto::convert::status_from_wire;
use hodei_proto::convert::{ConvertError, status_to_wire};
use hodei_proto::v1::Refusal;
use hodei_proto::v1::refusal::Reason;
use prost::Message;
use tonic::{Code, Status};

use crate::error::{Error, InputRefusal, JobKey, RefusalKind, Refused, SecretRefusal};

/// Returns the wire form of an error.
pub(crate) fn refusal(error: &Error) -> Refusal {
    let refused = Refusal {
        message: error.to_string(),
        field: error.field().unwrap_or_default().to_owned(),
        ..Refusal::default()
    };
    let (code, reason, told) = match error {
        Error::Spec(spec) => (Code::InvalidArgument, Reason::Invalid, spec_error(spec, refused)),
        Error::Token(terms) => (Code::InvalidArgument, Reason::Token, spec_error(terms, refused)),
        Error::Unsupported(Unsupported { why, .. }) => {
            (Code::FailedPrecondition, Reason::Unsupported, Refusal { why: why.clone(), ..refused })
        }
        Error::NotFound(job) => (Code::NotFound, Reason::NotFound, of_job(*job, refused)),
        Error::NoWorker(id) => (Code::NotFound, Reason::NoWorker, named(id, refused)),
        Error::NoToken(id) => (Code::NotFound, Reason::NoToken, named(id, refused)),
        Error::Denied(Denied { action, role }) => {
            let told = Refusal { kind: action.as_str().to_owned(), ..named(role.as_str(), refused) };
            (Code::PermissionDenied, Reason::Denied, told)
        }
        Error::AlreadyExists { key, existing } => {
            let reason = match key {
                JobKey::Id => Reason::IdTaken,
                JobKey::Idempotency => Reason::KeyTaken,
            };
            (Code::AlreadyExists, reason, of_job(*existing, refused))
        }
        Error::Ended { job, status } => {
            (Code::FailedPrecondition, Reason::Ended, with_status(*status, of_job(*job, refused)))
        }
        Error::StillOpen { job, status } => {
            (Code::FailedPrecondition, Reason::Open, with_status(*status, of_job(*job, refused)))
        }
        Error::QueueFull { limit } => {
            (Code::ResourceExhausted, Reason::QueueFull, Refusal { limit: *limit as u64, ..refused })
        }
        Error::Contended => (Code::Aborted, Reason::Contended, refused),
        Error::ShuttingDown => (Code::Unavailable, Reason::ShuttingDown, refused),
        Error::Store(error) => store_error(error, refused),
        Error::Log(error) => log_error(error, refused),
        Error::SecretRefused { name, why: SecretRefusal::Missing } => {
            (Code::FailedPrecondition, Reason::Secret, of_kind("missing", named(name, refused)))
        }
        Error::SecretRefused { name, why: SecretRefusal::Denied } => {
            (Code::FailedPrecondition, Reason::Secret, of_kind("denied", named(name, refused)))
        }
        Error::SecretsDisabled => (Code::FailedPrecondition, Reason::Secret, of_kind("disabled", refused)),
        Error::SecretStore(error) => secret_error(error, refused),
        Error::NoArtifact { job, name } => {
            // Older clients read the name from the field.
            let told = Refusal { field: name.to_string(), ..named(name, of_job(*job, refused)) };
            (Code::NotFound, Reason::Artifact, of_kind("missing", told))
        }
        Error::InputRefused { job, name, why } => {
            // Without the job's own field, by which older clients take it for a missing artifact.
            input_refusal(*why, named(format_args!("{job}/{name}"), refused))
        }
        Error::ArtifactsDisabled => {
            (Code::FailedPrecondition, Reason::Artifact, of_kind("disabled", refused))
        }
        Error::ArtifactStore(error) => artifact_error(error, refused),
        Error::Refused(refused) => return from_refused(refused),
        // A platform that answers calls is open.
        Error::Open(_) => (Code::Internal, Reason::Store, refused),
    };
    Refusal { code: code as i32, reason: reason.into(), ..told }
}

type Told = (Code, Reason, Refusal);

fn of_kind(kind: &str, refused: Refusal) -> Refusal {
    Refusal { kind: kind.to_owned(), ..refused }
}

fn named(name: impl ToString, refused: Refusal) -> Refusal {
    Refusal { name: name.to_string(), ..refused }
}

fn of_job(job: JobId, refused: Refusal) -> Refusal {
    Refusal { job_id: job.to_string(), ..refused }
}

fn with_status(status: JobStatus, refused: Refusal) -> Refusal {
    Refusal { status: status_to_wire(status).into(), ..refused }
}

fn input_refusal(why: InputRefusal, refused: Refusal) -> Told {
    let told = match why {
        InputRefusal::NoJob => of_kind("no_job", refused),
        InputRefusal::NoArtifact => of_kind("no_artifact", refused),
        InputRefusal::NotEnded(status) => with_status(status, of_kind("not_ended", refused)),
    };
    (Code::FailedPrecondition, Reason::Artifact, told)
}

fn spec_error(error: &SpecError, refused: Refusal) -> Refusal {
    match error {
        SpecError::Invalid { problem, .. } => {
            Refusal { why: problem.to_string(), ..of_kind("invalid", refused) }
        }
        SpecError::OverLimit { unit, got, limit, .. } => Refusal {
            why: unit.to_string(),
            got: *got as u64,
            limit: *limit as u64,
            ..of_kind("over_limit", refused)
        },
        // Of a later version of the domain: its message is all there is.
        _ => refused,
    }
}

fn store_error(error: &StoreError, refused: Refusal) -> Told {
    match error {
        StoreError::Unavailable { retry_after, why } => {
            let got = u64::try_from(retry_after.as_micros()).unwrap_or(u64::MAX);
            let told = Refusal { why: why.clone(), got, ..of_kind("unavailable", refused) };
            (Code::Unavailable, Reason::StoreUnavailable, told)
        }
        StoreError::StaleEpoch { current } => {
            let told = Refusal { limit: u64::from(current.0), ..of_kind("stale_epoch", refused) };
            (Code::Aborted, Reason::Contended, told)
        }
        StoreError::Cursor => (Code::InvalidArgument, Reason::Invalid, of_kind("cursor", refused)),
        StoreError::Rejected(why) => {
            let told = Refusal { why: why.clone(), ..of_kind("rejected", refused) };
            (Code::InvalidArgument, Reason::Invalid, told)
        }
        StoreError::Gone(why) => {
            (Code::Internal, Reason::Store, Refusal { why: why.clone(), ..of_kind("gone", refused) })
        }
        StoreError::Other(source) => {
            (Code::Internal, Reason::Store, Refusal { why: source.to_string(), ..of_kind("failed", refused) })
        }
        _ => (Code::Internal, Reason::Store, refused),
    }
}

fn log_error(error: &LogError, refused: Refusal) -> Told {
    match error {
        LogError::OutOfOrder { expected, got } => {
            let told = Refusal { limit: *expected, got: *got, ..of_kind("out_of_order", refused) };
            (Code::Internal, Reason::Log, told)
        }
        LogError::Sealed => (Code::Internal, Reason::Log, of_kind("sealed", refused)),
        LogError::Store(error) => {
            let (code, _, told) = store_error(error, refused);
            (code, Reason::Log, told)
        }
        _ => (Code::Internal, Reason::Log, refused),
    }
}

fn secret_error(error: &SecretError, refused: Refusal) -> Told {
    match error {
        SecretError::ReadOnly(why) => {
            let told = Refusal { why: why.clone(), ..of_kind("read_only", refused) };
            (Code::FailedPrecondition, Reason::Secret, told)
        }
        SecretError::Unavailable(why) => {
            let told = Refusal { why: why.clone(), ..of_kind("unavailable", refused) };
            (Code::Unavailable, Reason::Secret, told)
        }
        SecretError::Unreadable { name, why } => {
            let told = Refusal { why: why.clone(), ..of_kind("unreadable", named(name, refused)) };
            (Code::Internal, Reason::Secret, told)
        }
        _ => (Code::Internal, Reason::Secret, refused),
    }
}

fn artifact_error(error: &ArtifactError, refused: Refusal) -> Told {
    let (code, kind, why) = match error {
        ArtifactError::Unavailable(why) => (Code::Unavailable, "unavailable", why),
        ArtifactError::Full(why) => (Code::FailedPrecondition, "full", why),
        ArtifactError::Refused(why) => (Code::FailedPrecondition, "refused", why),
        _ => return (Code::Internal, Reason::Artifact, refused),
    };
    (code, Reason::Artifact, Refusal { why: why.clone(), ..of_kind(kind, refused) })
}

fn from_refused(refused: &Refused) -> Refusal {
    Refusal {
        code: code_of(refused.kind) as i32,
        message: refused.message.clone(),
        field: refused.field.clone().unwrap_or_default(),
        ..Refusal::default()
    }
}

fn code_of(kind: RefusalKind) -> Code {
    match kind {
        RefusalKind::Unavailable => Code::Unavailable,
        RefusalKind::Overloaded => Code::ResourceExhausted,
        RefusalKind::Unauthenticated => Code::Unauthenticated,
        RefusalKind::Denied => Code::PermissionDenied,
        RefusalKind::Invalid => Code::InvalidArgument,
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::Precondition => Code::FailedPrecondition,
        RefusalKind::Unimplemented => Code::Unimplemented,
        RefusalKind::Internal => Code::Internal,
    }
}

fn kind_of(code: Code) -> RefusalKind {
    match code {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => {
            RefusalKind::Unavailable
        }
        Code::ResourceExhausted => RefusalKind::Overloaded,
        Code::Unauthenticated => RefusalKind::Unauthenticated,
        Code::PermissionDenied => RefusalKind::Denied,
        Code::InvalidArgument | Code::OutOfRange => RefusalKind::Invalid,
        Code::NotFound => RefusalKind::NotFound,
        Code::FailedPrecondition | Code::AlreadyExists => RefusalKind::Precondition,
        Code::Unimplemented => RefusalKind::Unimplemented,
        _ => RefusalKind::Internal,
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

/// Returns the error of a refusal.
pub(crate) fn error(refusal: Refusal) -> Error {
    match known_error(&refusal) {
        Some(error) => error,
        None => Error::Refused(Refused {
            kind: kind_of(Code::from_i32(refusal.code)),
            field: (!refusal.field.is_empty()).then_some(refusal.field),
            message: refusal.message,
        }),
    }
}

/// The variant that a refusal stands for; `None` where it stands for none, or comes from an older peer that does not say
/// which.
fn known_error(refusal: &Refusal) -> Option<Error> {
    let job = || refusal.job_id.parse::<JobId>().ok();
    let status = || status_from_wire(refusal.status).ok();
    let limit = || usize::try_from(refusal.limit).unwrap_or(usize::MAX);
    Some(match refusal.reason() {
        Reason::Unspecified => return None,
        Reason::Invalid if refusal.kind == "cursor" || refusal.kind == "rejected" => {
            Error::Store(read_store_error(refusal)?)
        }
        Reason::Invalid => Error::Spec(read_spec_error(refusal)?),
        Reason::Token => Error::Token(read_spec_error(refusal)?),
        Reason::Unsupported if !refusal.why.is_empty() => {
            Error::Unsupported(Unsupported { field: refusal.field.clone().into(), why: refusal.why.clone() })
        }
        Reason::Unsupported => return None,
        Reason::NotFound => Error::NotFound(job()?),
        Reason::NoWorker => Error::NoWorker(refusal.name.parse().ok()?),
        Reason::NoToken => Error::NoToken(refusal.name.parse().ok()?),
        Reason::Denied => {
            let action = Action::ALL.into_iter().find(|action| action.as_str() == refusal.kind)?;
            let role: Role = refusal.name.parse().ok()?;
            Error::Denied(Denied { action, role })
        }
        Reason::IdTaken => Error::AlreadyExists { key: JobKey::Id, existing: job()? },
        Reason::KeyTaken => Error::AlreadyExists { key: JobKey::Idempotency, existing: job()? },
        Reason::Ended => {
            Error::Ended { job: job()?, status: status().filter(|status| status.is_terminal())? }
        }
        Reason::Open => {
            let status = status().filter(|status| !status.is_terminal());
            Error::StillOpen { job: job()?, status: status.unwrap_or(JobStatus::Created) }
        }
        Reason::QueueFull => Error::QueueFull { limit: limit() },
        Reason::Contended if refusal.kind == "stale_epoch" => Error::Store(read_store_error(refusal)?),
        Reason::Contended => Error::Contended,
        Reason::ShuttingDown => Error::ShuttingDown,
        Reason::StoreUnavailable | Reason::Store => Error::Store(read_store_error(refusal)?),
        Reason::Log => Error::Log(match refusal.kind.as_str() {
            "out_of_order" => LogError::OutOfOrder { expected: refusal.limit, got: refusal.got },
            "sealed" => LogError::Sealed,
            _ => LogError::Store(read_store_error(refusal)?),
        }),
        Reason::Secret => read_secret_error(refusal)?,
        Reason::Artifact => read_artifact_error(refusal)?,
    })
}

fn read_spec_error(refusal: &Refusal) -> Option<SpecError> {
    let (field, why) = (refusal.field.clone().into(), refusal.why.clone().into());
    match refusal.kind.as_str() {
        "invalid" => Some(SpecError::Invalid { field, problem: why }),
        "over_limit" => Some(SpecError::OverLimit {
            field,
            unit: why,
            got: usize::try_from(refusal.got).unwrap_or(usize::MAX),
            limit: usize::try_from(refusal.limit).unwrap_or(usize::MAX),
        }),
        _ => None,
    }
}

fn read_store_error(refusal: &Refusal) -> Option<StoreError> {
    let why = refusal.why.clone();
    Some(match refusal.kind.as_str() {
        "unavailable" => StoreError::Unavailable { retry_after: Duration::from_micros(refusal.got), why },
        "stale_epoch" => StoreError::StaleEpoch { current: Epoch(u32::try_from(refusal.limit).ok()?) },
        "cursor" => StoreError::Cursor,
        "rejected" => StoreError::Rejected(why),
        "gone" => StoreError::Gone(why),
        "failed" => StoreError::Other(why.into()),
        _ => return None,
    })
}

fn read_secret_error(refusal: &Refusal) -> Option<Error> {
    let (name, why) = (refusal.name.parse(), refusal.why.clone());
    Some(match refusal.kind.as_str() {
        "missing" => Error::SecretRefused { name: name.ok()?, why: SecretRefusal::Missing },
        "denied" => Error::SecretRefused { name: name.ok()?, why: SecretRefusal::Denied },
        "disabled" => Error::SecretsDisabled,
        "read_only" => Error::SecretStore(SecretError::ReadOnly(why)),
        "unavailable" => Error::SecretStore(SecretError::Unavailable(why)),
        "unreadable" => Error::SecretStore(SecretError::Unreadable { name: name.ok()?, why }),
        _ => return None,
    })
}

fn read_artifact_error(refusal: &Refusal) -> Option<Error> {
    let why = refusal.why.clone();
    let input = |why: InputRefusal| {
        let (job, name) = refusal.name.split_once('/')?;
        Some(Error::InputRefused { job: job.parse().ok()?, name: name.parse().ok()?, why })
    };
    Some(match refusal.kind.as_str() {
        // Older servers say no kind.
        "missing" | "" => {
            Error::NoArtifact { job: refusal.job_id.parse().ok()?, name: refusal.field.parse().ok()? }
        }
        "no_job" => input(InputRefusal::NoJob)?,
        "no_artifact" => input(InputRefusal::NoArtifact)?,
        "not_ended" => input(InputRefusal::NotEnded(status_from_wire(refusal.status).ok()?))?,
        "disabled" => Error::ArtifactsDisabled,
        "unavailable" => Error::ArtifactStore(ArtifactError::Unavailable(why)),
        "full" => Error::ArtifactStore(ArtifactError::Full(why)),
        "refused" => Error::ArtifactStore(ArtifactError::Refused(why)),
        _ => return None,
    })
}

/// Returns the error of a failed call.
pub(crate) fn error_of(status: &Status) -> Error {
    match Refusal::decode(status.details()) {
        Ok(refusal) if refusal.code != 0 => error(refusal),
        _ => Error::Refused(Refused {
            kind: kind_of(status.code()),
            field: None,
            message: status.message().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use hodei_core::artifact::WorkspacePath;
    use uuid::Uuid;

    use super::*;
    use crate::error::OpenError;

    fn job() -> JobId {
        JobId::from_uuid(Uuid::from_u128(7))
    }

    /// Every error that a call can return, with each of its kinds. A new variant does not compile until it has a line here.
    fn all() -> Vec<Error> {
        let (invalid, over) = (
            || SpecError::Invalid { field: "env".into(), problem: "has no name".into() },
            || SpecError::OverLimit { field: "labels".into(), unit: "entries".into(), got: 300, limit: 256 },
        );
        let store = || {
            [
                StoreError::Unavailable { retry_after: Duration::from_millis(1500), why: "busy".into() },
                StoreError::StaleEpoch { current: Epoch(9) },
                StoreError::Gone("removed".into()),
                StoreError::Rejected("a zero byte".into()),
                StoreError::Cursor,
                StoreError::Other("it broke".into()),
            ]
        };
        let name = || "deploy-key".parse().unwrap();
        let path = || "out/日".parse::<WorkspacePath>().unwrap();
        let mut all = vec![
            Error::Spec(invalid()),
            Error::Spec(over()),
            Error::Token(invalid()),
            Error::Token(over()),
            Error::Unsupported(Unsupported { field: "image".into(), why: "no provider runs images".into() }),
            Error::NotFound(job()),
            Error::NoToken("01a22d8d-65bf-7723-bd1c-f762203c03f8".parse().unwrap()),
            Error::NoWorker("01a22d8d-65bf-7723-bd1c-f762203c03f9".parse().unwrap()),
            Error::AlreadyExists { key: JobKey::Id, existing: job() },
            Error::AlreadyExists { key: JobKey::Idempotency, existing: job() },
            Error::Ended { job: job(), status: JobStatus::Failed },
            Error::StillOpen { job: job(), status: JobStatus::Running },
            Error::QueueFull { limit: 3 },
            Error::Contended,
            Error::ShuttingDown,
            Error::SecretRefused { name: name(), why: SecretRefusal::Missing },
            Error::SecretRefused { name: name(), why: SecretRefusal::Denied },
            Error::SecretsDisabled,
            Error::SecretStore(SecretError::ReadOnly("files".into())),
            Error::SecretStore(SecretError::Unavailable("away".into())),
            Error::SecretStore(SecretError::Unreadable {
                name: name(),
                why: "sealed with another key".into(),
            }),
            Error::NoArtifact { job: job(), name: path() },
            Error::InputRefused { job: job(), name: path(), why: InputRefusal::NoJob },
            Error::InputRefused { job: job(), name: path(), why: InputRefusal::NoArtifact },
            Error::InputRefused { job: job(), name: path(), why: InputRefusal::NotEnded(JobStatus::Running) },
            Error::ArtifactsDisabled,
            Error::ArtifactStore(ArtifactError::Unavailable("away".into())),
            Error::ArtifactStore(ArtifactError::Full("no room".into())),
            Error::ArtifactStore(ArtifactError::Refused("over a limit".into())),
            Error::Log(LogError::OutOfOrder { expected: 4, got: 6 }),
            Error::Log(LogError::Sealed),
        ];
        all.extend(Action::ALL.map(|action| Error::Denied(Denied { action, role: Role::Viewer })));
        all.extend(store().map(Error::Store));
        all.extend(store().map(|error| Error::Log(LogError::Store(error))));
        all.extend(refused_by_kind());
        all
    }

    fn refused_by_kind() -> [Error; 9] {
        let kinds = [
            RefusalKind::Unavailable,
            RefusalKind::Overloaded,
            RefusalKind::Unauthenticated,
            RefusalKind::Denied,
            RefusalKind::Invalid,
            RefusalKind::NotFound,
            RefusalKind::Precondition,
            RefusalKind::Unimplemented,
            RefusalKind::Internal,
        ];
        let refused = |kind| Refused { kind, field: Some("nonce".into()), message: "no".into() };
        kinds.map(|kind| Error::Refused(refused(kind)))
    }

    /// Whether a call can return it; a match without a wildcard, so that a new variant is decided on.
    fn is_of_a_call(error: &Error) -> bool {
        match error {
            Error::Open(_) => false,
            Error::Spec(_)
            | Error::Token(_)
            | Error::Unsupported(_)
            | Error::NotFound(_)
            | Error::Denied(_)
            | Error::NoToken(_)
            | Error::NoWorker(_)
            | Error::AlreadyExists { .. }
            | Error::Ended { .. }
            | Error::StillOpen { .. }
            | Error::QueueFull { .. }
            | Error::Contended
            | Error::ShuttingDown
            | Error::Store(_)
            | Error::Log(_)
            | Error::Refused(_)
            | Error::SecretRefused { .. }
            | Error::SecretsDisabled
            | Error::SecretStore(_)
            | Error::NoArtifact { .. }
            | Error::InputRefused { .. }
            | Error::ArtifactsDisabled
            | Error::ArtifactStore(_) => true,
        }
    }

    #[test]
    fn every_error_of_a_call_comes_back_as_the_same_variant() {
        let all = all();
        let variants: std::collections::BTreeSet<String> = all
            .iter()
            .map(|error| format!("{error:?}").split([' ', '(']).next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(variants.len(), 23, "a variant has no line in the table: {variants:?}");
        for original in all {
            assert!(is_of_a_call(&original));
            let got = error_of(&status_of(refusal(&original)));
            assert_eq!(format!("{got:?}"), format!("{original:?}"));
            assert_eq!(got.to_string(), original.to_string());
            assert_eq!(
                (got.field(), got.is_retryable()),
                (original.field(), original.is_retryable()),
                "{got:?}"
            );
        }
        let open = Error::Open(OpenError::Url { url: "x".into() });
        assert!(!is_of_a_call(&open));
    }

    #[test]
    fn a_refusal_of_an_older_peer_keeps_its_message() {
        for reason in [Reason::Invalid, Reason::Secret, Reason::Store, Reason::NoWorker, Reason::Denied] {
            let old = Refusal {
                code: Code::FailedPrecondition as i32,
                reason: reason.into(),
                message: "an older word".into(),
                ..Refusal::default()
            };
            let Error::Refused(refused) = error(old) else { panic!("{reason:?}") };
            assert_eq!(refused.message, "an older word");
        }
    }
}
