//! Errors of the public face: of calls, and of opening a platform.

use std::fmt;
use std::io;
use std::path::PathBuf;

use hodei_core::access::Denied;
use hodei_core::artifact::WorkspacePath;
use hodei_core::id::{JobId, TokenId, WorkerId};
use hodei_core::job::{JobStatus, SpecError};
use hodei_core::port::{ArtifactError, SecretError, StoreError};
use hodei_core::provider::Unsupported;
use hodei_core::secret::SecretName;

/// Why a call on the platform failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The spec breaks a limit.
    #[error("the job cannot be accepted: {0}")]
    Spec(#[from] SpecError),
    /// No configured provider can honour a field of the spec.
    #[error("no configured provider can run this job: {0}")]
    Unsupported(Unsupported),
    /// The job does not exist, or belongs to another tenant.
    #[error("there is no job {0}")]
    NotFound(JobId),
    /// The role of the caller does not allow the call.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The terms of a token are not valid.
    #[error("the token cannot be created: {0}")]
    Token(SpecError),
    /// The token does not exist.
    #[error("there is no token {0}")]
    NoToken(TokenId),
    /// The worker does not exist, or is no longer remembered.
    #[error("there is no worker {0}")]
    NoWorker(WorkerId),
    /// Another job has this id or this idempotency key, with another spec.
    #[error("{key} belongs to job {existing}, which has another spec")]
    AlreadyExists {
        /// The key that is taken.
        key: JobKey,
        /// That job.
        existing: JobId,
    },
    /// The job has ended, and an end is final.
    #[error("job {job} is {status} already")]
    Ended {
        /// The job.
        job: JobId,
        /// Its state.
        status: JobStatus,
    },
    /// The job has not ended, and a retry would run it twice at once.
    #[error("job {job} is {status} and has not ended: a retry would run it twice at once")]
    StillOpen {
        /// The job.
        job: JobId,
        /// Its state.
        status: JobStatus,
    },
    /// The queue has its maximum number of open jobs.
    #[error("the queue is full with {limit} open jobs: try again when some have ended")]
    QueueFull {
        /// The maximum number of open jobs.
        limit: usize,
    },
    /// Other callers changed the same job at each of several tries.
    #[error("the job changes too fast: try again")]
    Contended,
    /// The platform is shutting down or has stopped.
    #[error("the platform is shutting down")]
    ShuttingDown,
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A daemon refused the call, or could not be reached, for a reason that no other variant has.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The job may not have a secret that its spec names.
    #[error("secret `{name}` {why}")]
    SecretRefused {
        /// The secret.
        name: SecretName,
        /// The reason.
        why: SecretRefusal,
    },
    /// The platform has no secret provider.
    #[error("this platform keeps no secrets: give it keys for secrets, or a secret provider")]
    SecretsDisabled,
    /// The secret provider failed.
    #[error(transparent)]
    SecretStore(#[from] SecretError),
    /// The job has no artifact of this name.
    #[error("job {job} has no artifact `{name}`")]
    NoArtifact {
        /// The job.
        job: JobId,
        /// The name of the artifact.
        name: WorkspacePath,
    },
    /// An input that a spec names is not available.
    #[error("the input {job}/{name} {why}")]
    InputRefused {
        /// The job of the artifact.
        job: JobId,
        /// The name of the artifact.
        name: WorkspacePath,
        /// The reason.
        why: InputRefusal,
    },
    /// The platform has no artifact store.
    #[error("this platform keeps no artifacts: give it a directory or a bucket for them")]
    ArtifactsDisabled,
    /// The artifact store failed.
    #[error(transparent)]
    ArtifactStore(#[from] ArtifactError),
    /// The log store failed.
    #[error(transparent)]
    Log(#[from] hodei_core::port::LogError),
}

/// Why a job may not have a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretRefusal {
    /// No secret of the tenant has this name.
    #[error("does not exist: store it first, for example with `hodei secret put`")]
    Missing,
    /// The policy does not allow it for this job.
    #[error("is not allowed for this job by the policy of secrets")]
    Denied,
}

/// Why a job cannot be given an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InputRefusal {
    /// The job does not exist, or belongs to another tenant.
    #[error("names a job that does not exist")]
    NoJob,
    /// The job ended without this artifact.
    #[error("does not exist: the job ended without it")]
    NoArtifact,
    /// The job has not ended, and its artifacts are kept only then.
    #[error("does not exist yet: the job is {0}. Wait for its end first, for example with `hodei job wait`")]
    NotEnded(JobStatus),
}

/// A refusal of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// The kind of the refusal.
    pub kind: RefusalKind,
    /// The field of the request that is wrong, when one is.
    pub field: Option<String>,
    /// The reason, and the remedy.
    pub message: String,
}

/// The kind of a refusal by a daemon, or on the way to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalKind {
    /// No daemon can be reached, or it is unavailable now. The same call may work later.
    Unavailable,
    /// The daemon is overloaded: try again more slowly.
    Overloaded,
    /// The call has no token, or one that is not valid.
    Unauthenticated,
    /// The caller may not do this.
    Denied,
    /// The request is not valid.
    Invalid,
    /// The object of the call does not exist.
    NotFound,
    /// A condition of the call is not met, such as an encrypted connection.
    Precondition,
    /// The daemon does not know the call: it is older than this client.
    Unimplemented,
    /// The daemon failed, or sent an answer that this version cannot read.
    Internal,
}

/// A key under which a job is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKey {
    /// Its id.
    Id,
    /// Its idempotency key.
    Idempotency,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Id => "the id",
            Self::Idempotency => "the idempotency key",
        })
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL is not the address of a store.
    #[error(
        "`{url}` is not a valid address of a store: write memory:, sqlite:DIRECTORY or postgres://USER:PASSWORD@HOST/DATABASE"
    )]
    Url {
        /// The URL, without credentials.
        url: String,
    },
    /// This build lacks the feature for the store.
    #[error("`{url}` needs the feature `{feature}` of hodei-sdk")]
    Feature {
        /// The URL.
        url: String,
        /// The feature to build with.
        feature: &'static str,
    },
    /// Another process has the data directory.
    #[error("the data directory {} is in use by {}", dir.display(), match holder {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    })]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The id of that process, when it could be read.
        holder: Option<u32>,
    },
    /// The database of a data directory is a copy of one that is still there.
    #[error(
        "{} has a copy of {}, which is still there: started, it would take the workers of the original for its own and \
         kill them. `hodei-daemon adopt {}` makes it a store of its own; its open jobs then run there too",
        dir.display(), original.display(), dir.display()
    )]
    Copied {
        /// The directory of the copy.
        dir: PathBuf,
        /// The database that it was copied from.
        original: PathBuf,
    },
    /// A file or folder cannot be used.
    #[error("{} cannot be used: {source}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file is not a store of Hodei, or is damaged.
    #[error("{} is not a store of Hodei: {why}", path.display())]
    NotAStore {
        /// The path.
        path: PathBuf,
        /// The problem.
        why: String,
    },
    /// A newer program made the store, in a way that this one does not know.
    #[error("{} needs a newer Hodei: its schema is {needs}, this one knows {knows}", path.display())]
    Newer {
        /// The path.
        path: PathBuf,
        /// The schema version that one must know.
        needs: i64,
        /// The schema version that this program knows.
        knows: i64,
    },
    /// A key file has no keys for secrets.
    #[error("{} has no keys for secrets: each is a line of 64 hexadecimal digits", path.display())]
    NotKeys {
        /// The path.
        path: PathBuf,
    },
    /// The address for hints is not valid.
    #[error(
        "`{url}` is not a valid address for hints: write `none`, postgres://USER@HOST/DATABASE or nats://HOST"
    )]
    Hints {
        /// The given value.
        url: String,
    },
    /// The address for events is not valid.
    #[error("`{url}` is not a valid address for events: write nats://HOST")]
    Events {
        /// The given value.
        url: String,
    },
    /// The place for artifacts is not valid.
    #[error(
        "`{place}` is not a valid place for artifacts: write dir:PATH, s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH"
    )]
    Artifacts {
        /// The given value.
        place: String,
    },
    /// The bucket of a cloud cannot be used.
    #[error("artifacts cannot be kept at {place}: {why}")]
    Cloud {
        /// The place.
        place: String,
        /// The reason, and the remedy.
        why: String,
    },
    /// A NATS server cannot be used.
    #[error("the NATS server {url} cannot be used: {why}")]
    Nats {
        /// Its address, without credentials.
        url: String,
        /// The reason, and the remedy.
        why: String,
    },
    /// A database cannot be used.
    #[error("{what} cannot be used: {why}")]
    Database {
        /// The database.
        what: String,
        /// The reason, and the remedy.
        why: String,
    },
    /// A newer program made the tables of a database, in a way that this one does not know.
    #[error("{what} needs a newer Hodei: its schema is {needs}, this one knows {knows}")]
    NewerDatabase {
        /// The database.
        what: String,
        /// The schema version that one must know.
        needs: i64,
        /// The schema version that this program knows.
        knows: i64,
    },
}

#[cfg(any(feature = "nats", feature = "postgres"))]
impl OpenError {
    /// Of URLs that carry no hints.
    pub(crate) fn hints(urls: &str) -> Self {
        Self::Hints { url: without_users(urls) }
    }

    /// Of URLs that take no events.
    #[cfg(feature = "nats")]
    pub(crate) fn events(urls: &str) -> Self {
        Self::Events { url: without_users(urls) }
    }
}

/// URLs with commas between, as they may be shown: without users, passwords and tokens.
pub(crate) fn without_users(urls: &str) -> String {
    let Some((users, host)) = urls.rsplit_once('@') else { return urls.to_owned() };
    let mut schemes = users.split(',').filter_map(|url| Some(url.split_once("://")?.0));
    let is_plain = |scheme: &&str| !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric());
    match schemes.find(is_plain) {
        Some(scheme) => format!("{scheme}://…@{host}"),
        None => format!("…@{host}"),
    }
}

impl Error {
    /// Whether the same call may work later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::QueueFull { .. } | Self::Contended => true,
            Self::Store(error) => error.is_retryable(),
            Self::SecretStore(error) => matches!(error, SecretError::Unavailable(_)),
            Self::ArtifactStore(error) => matches!(error, ArtifactError::Unavailable(_)),
            Self::Refused(refused) => refused.kind == RefusalKind::Unavailable,
            _ => false,
        }
    }

    /// The field of the spec that is wrong, when one is.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Spec(error) | Self::Token(error) => Some(error.field()),
            Self::Unsupported(unsupported) => Some(&unsupported.field),
            Self::SecretRefused { .. } => Some("secrets"),
            Self::InputRefused { .. } => Some("inputs"),
            Self::Refused(refused) => refused.field.as_deref(),
            _ => None,
        }
    }
}
