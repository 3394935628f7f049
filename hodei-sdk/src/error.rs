use hodei_core::id::JobId;
use hodei_core::job::SpecError;
use hodei_core::port::StoreError;
use hodei_core::provider::Unsupported;

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
    /// Another job has this id or this idempotency key, with another spec.
    #[error("{what} belongs to job {existing}, which has another spec")]
    AlreadyExists {
        /// The id or the idempotency key.
        what: &'static str,
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
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log store failed.
    #[error(transparent)]
    Log(#[from] hodei_core::port::LogError),
}

impl Error {
    /// Whether the same call may work later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::QueueFull { .. } | Self::Contended => true,
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// The field of the spec that is wrong, when one is.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Spec(error) => Some(error.field()),
            Self::Unsupported(unsupported) => Some(unsupported.field),
            _ => None,
        }
    }
}
