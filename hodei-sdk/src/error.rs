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

/// Why the platform did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The spec breaks a limit.
    #[error("the job cannot be accepted: {0}")]
    Spec(#[from] SpecError),
    /// No configured provider can honour a field of the spec.
    #[error("no configured provider can run this job: {0}")]
    Unsupported(Unsupported),
    /// There is no such job, or it is somebody else's.
    #[error("there is no job {0}")]
    NotFound(JobId),
    /// The caller's role is too low.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// What a token is to be for breaks a limit.
    #[error("the token cannot be made: {0}")]
    Token(SpecError),
    /// There is no such token.
    #[error("there is no token {0}")]
    NoToken(TokenId),
    /// There is no such worker, or it is forgotten.
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
    /// The job ended, which is final.
    #[error("job {job} is {status} already")]
    Ended {
        /// The job.
        job: JobId,
        /// How.
        status: hodei_core::job::JobStatus,
    },
    /// The job has not ended: to repeat it now would run it twice at once.
    #[error("job {job} is {status} and has not ended: a retry would run it twice at once")]
    StillOpen {
        /// The job.
        job: JobId,
        /// Where it stands.
        status: hodei_core::job::JobStatus,
    },
    /// As many jobs are open as may be.
    #[error("the queue is full with {limit} open jobs: try again when some have ended")]
    QueueFull {
        /// How many may be open.
        limit: usize,
    },
    /// The same job was changed by others again and again.
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
    /// A daemon refused, for a reason that is no other here.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A secret that a spec names is not for its job.
    #[error("secret `{name}` {why}")]
    SecretRefused {
        /// Which.
        name: SecretName,
        /// Why not.
        why: SecretRefusal,
    },
    /// Nobody said where the values of secrets are.
    #[error("there is no place for secrets here: give the platform keys for them, or a provider of them")]
    SecretsDisabled,
    /// Where the values of secrets are, something is wrong.
    #[error(transparent)]
    SecretStore(#[from] SecretError),
    /// There is no such artifact of a job.
    #[error("job {job} has no artifact `{name}`")]
    NoArtifact {
        /// The job.
        job: JobId,
        /// What is not there.
        name: WorkspacePath,
    },
    /// An input that a spec names cannot be had.
    #[error("the input {job}/{name} {why}")]
    InputRefused {
        /// Whose artifact it is.
        job: JobId,
        /// Which.
        name: WorkspacePath,
        /// Why not.
        why: InputRefusal,
    },
    /// Nobody said where artifacts are.
    #[error("there is no place for artifacts here: give the platform a directory or a bucket for them")]
    ArtifactsDisabled,
    /// Where the artifacts are, something is wrong.
    #[error(transparent)]
    ArtifactStore(#[from] ArtifactError),
    /// The log store failed.
    #[error(transparent)]
    Log(#[from] hodei_core::port::LogError),
}

/// Why a job may not have a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretRefusal {
    /// There is none of this name.
    #[error("is not there: put it first, as with `hodei secret put`")]
    Missing,
    /// The policy has it for others.
    #[error("is not for this job: the policy has it for others")]
    Denied,
}

/// Why a job cannot be given an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InputRefusal {
    /// There is no such job, or it is somebody else's.
    #[error("is of a job that is not there")]
    NoJob,
    /// The job ended, and has no such artifact.
    #[error("is not there: the job ended without it")]
    NoArtifact,
    /// The job has not ended, and keeps its artifacts only then.
    #[error("is not there yet: the job is {0}. Wait for its end first, as with `hodei job wait`")]
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
    /// What to do about it.
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
    /// The call needs something that is not so, such as a connection that is encrypted.
    Precondition,
    /// The daemon does not know the call: it is older than this client.
    Unimplemented,
    /// The daemon failed, or answered with what this version cannot read.
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
    /// The URL names no store.
    #[error("`{url}` is no store: write memory:, sqlite:DIRECTORY or postgres://USER:PASSWORD@HOST/DATABASE")]
    Url {
        /// The URL, without who signs in.
        url: String,
    },
    /// The store is not in this build.
    #[error("`{url}` needs the feature `{feature}` of hodei-sdk")]
    Feature {
        /// The URL.
        url: String,
        /// What to build with.
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
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is not a store of Hodei: {why}", path.display())]
    NotAStore {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A newer program made the store, in a way that this one does not know.
    #[error("{} needs a newer Hodei: its schema is {needs}, this one knows {knows}", path.display())]
    Newer {
        /// Which.
        path: PathBuf,
        /// The schema version that one must know.
        needs: i64,
        /// The schema version that this program knows.
        knows: i64,
    },
    /// A file that should have keys for secrets has none.
    #[error("{} has no keys for secrets: each is a line of 64 hexadecimal digits", path.display())]
    NotKeys {
        /// Which.
        path: PathBuf,
    },
    /// Nothing that carries hints.
    #[error("`{url}` carries no hints: write `none`, postgres://USER@HOST/DATABASE or nats://HOST")]
    Hints {
        /// What was said.
        url: String,
    },
    /// Nothing that takes events.
    #[error("`{url}` takes no events: write nats://HOST")]
    Events {
        /// What was said.
        url: String,
    },
    /// No place for artifacts.
    #[error(
        "`{place}` is no place for artifacts: write dir:PATH, s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH"
    )]
    Artifacts {
        /// What was said.
        place: String,
    },
    /// The bucket of a cloud cannot be used.
    #[error("artifacts cannot be kept at {place}: {why}")]
    Cloud {
        /// Where.
        place: String,
        /// Why, and what to do about it.
        why: String,
    },
    /// A NATS server cannot be used.
    #[error("the NATS server {url} cannot be used: {why}")]
    Nats {
        /// Which, without who signs in.
        url: String,
        /// Why, and what to do about it.
        why: String,
    },
    /// A database cannot be used.
    #[error("{what} cannot be used: {why}")]
    Database {
        /// Which.
        what: String,
        /// Why, and what to do about it.
        why: String,
    },
    /// A newer program made the tables of a database, in a way that this one does not know.
    #[error("{what} needs a newer Hodei: its schema is {needs}, this one knows {knows}")]
    NewerDatabase {
        /// Which.
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
