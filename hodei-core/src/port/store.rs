use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::access::AccessToken;
use crate::decision::{Aggregate, AggregateId, Decision, Expect};
use crate::event::{Actor, Envelope};
use crate::id::{AttemptId, EventId, JobId, SecretId, StoreId, TokenId, WorkerId};
use crate::job::{Job, JobStatus, TenantId};
use crate::provider::Provider;
use crate::secret::Secret;
use crate::time::Timestamp;
use crate::worker::Worker;

use super::{Epoch, LeaseStore, SecretInfo};

/// The one place of truth: all repositories over one transaction.
#[async_trait]
pub trait Store:
    JobRepository
    + JobQueue
    + WorkerRegistry
    + ProviderConfigRepository
    + SecretRepository
    + AccessRepository
    + AuditRepository
    + LeaseStore
{
    /// Its id, made with it and kept.
    fn id(&self) -> StoreId;

    /// The owner of everything that its platforms create: its id, but where a copy of it may go on elsewhere.
    fn owner(&self) -> StoreId {
        self.id()
    }

    /// How many commits it works on at the same time, so that a second need not wait for the first.
    fn commits_at_once(&self) -> usize {
        1
    }

    /// Stores states and their events in one transaction and gives an outcome for each: a bad item harms no
    /// neighbour. Items of one aggregate are taken in order; what follows a conflict on the same aggregate is one too.
    ///
    /// # Errors
    /// [`StoreError`] when nothing was stored.
    async fn commit(
        &self,
        fence: Fence,
        writes: &[Write],
    ) -> Result<Vec<Result<(), CommitError>>, StoreError>;

    /// Forgets those of some jobs that ended, with their history; and workers that terminated, tokens that are good no
    /// more, and what belongs to no transition, before a point in time. An idempotency key of a job that ended outlives
    /// it by [`KEY_OUTLIVES`].
    ///
    /// # Errors
    /// [`StoreError`] when nothing was forgotten.
    async fn forget(&self, jobs: &[JobId], before: Timestamp) -> Result<(), StoreError>;
}

/// An idempotency key is kept this long after its job was forgotten: 24 hours.
pub const KEY_OUTLIVES: Duration = Duration::from_secs(24 * 3600);

/// Reads jobs.
#[async_trait]
pub trait JobRepository: Debug + Send + Sync + 'static {
    /// Jobs by id, in the order asked for.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError>;

    /// The same from memory, where a store that others write to has seen them: a state may be one of before. What is
    /// decided over it is safe, since its commit expects that nobody changed it; what it refuses is to be asked of
    /// [`jobs`](Self::jobs).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn recent_jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        self.jobs(ids).await
    }

    /// One page of a tenant's jobs, the newest first, each as [`Job::listing`] shows it: what may be long of a spec is left
    /// in the store. A page may end early, with a place to go on from.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_jobs(&self, filter: &JobFilter) -> Result<JobPage, StoreError>;

    /// The job of a tenant's idempotency key.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn job_by_key(&self, tenant: &TenantId, key: &str) -> Result<Option<JobId>, StoreError>;

    /// Up to `limit` jobs of all tenants that ended before a point in time, by id, each with its last attempt. One
    /// whose id is of a later time than that may be left out.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn ended_before(&self, before: Timestamp, limit: usize) -> Result<Vec<AttemptId>, StoreError>;
}

/// Reads the jobs that are not terminal, for takeover and sweeps.
#[async_trait]
pub trait JobQueue: Debug + Send + Sync + 'static {
    /// Up to `limit` jobs that are not terminal, by id, after `after`, each as [`Job::listing`] shows it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn open_jobs(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Arc<Job>>, StoreError>;

    /// Every job that is assigned to one of some workers or runs on it, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn jobs_of_workers(&self, workers: &[WorkerId]) -> Result<Vec<Arc<Job>>, StoreError>;
}

/// Reads workers.
#[async_trait]
pub trait WorkerRegistry: Debug + Send + Sync + 'static {
    /// Workers by id, in the order asked for.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn workers(&self, ids: &[WorkerId]) -> Result<Vec<Option<Arc<Worker>>>, StoreError>;

    /// Every worker that is not terminated, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn live_workers(&self) -> Result<Vec<Arc<Worker>>, StoreError>;
}

/// Reads providers.
#[async_trait]
pub trait ProviderConfigRepository: Debug + Send + Sync + 'static {
    /// Every provider, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn providers(&self) -> Result<Vec<Arc<Provider>>, StoreError>;
}

/// Reads secrets, as they are sealed.
#[async_trait]
pub trait SecretRepository: Debug + Send + Sync + 'static {
    /// Secrets by id, in the order asked for; also those that were deleted.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn secrets(&self, ids: &[SecretId]) -> Result<Vec<Option<Arc<Secret>>>, StoreError>;

    /// What is known of a tenant's secrets that have a value, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_secrets(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, StoreError>;
}

/// Reads tokens for clients.
#[async_trait]
pub trait AccessRepository: Debug + Send + Sync + 'static {
    /// Tokens by id, in the order asked for; also those that are good no more.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn tokens(&self, ids: &[TokenId]) -> Result<Vec<Option<Arc<AccessToken>>>, StoreError>;

    /// Every token, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_tokens(&self) -> Result<Vec<Arc<AccessToken>>, StoreError>;
}

/// Reads the events, which are history and outbox in one, and takes those that come with no state.
#[async_trait]
pub trait AuditRepository: Debug + Send + Sync + 'static {
    /// The whole history of one aggregate, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn history(&self, aggregate: AggregateId) -> Result<Vec<Envelope>, StoreError>;

    /// Up to `limit` events of all aggregates that follow a place, in the one order in which every reader sees them:
    /// who goes on from [`FeedPage::next`] misses none and sees none twice.
    ///
    /// # Errors
    /// [`StoreError::Cursor`] when this store gave no such cursor; [`StoreError`].
    async fn feed(&self, after: &FeedCursor, limit: usize) -> Result<FeedPage, StoreError>;

    /// The place behind all that the feed shows now.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn feed_end(&self) -> Result<FeedCursor, StoreError>;

    /// Stores events that belong to no transition, such as refusals: all or none. They are forgotten with what ended
    /// when they were told.
    ///
    /// # Errors
    /// [`StoreError`] when nothing was stored, or nobody knows whether it was.
    async fn record(&self, events: &[Envelope]) -> Result<(), StoreError>;

    /// How old the oldest stored event is that the feed does not show yet: a transaction of somebody else may hold it
    /// back. Zero where the feed shows everything at once.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn feed_lag(&self, now: Timestamp) -> Result<Duration, StoreError> {
        let _ = now;
        Ok(Duration::ZERO)
    }
}

/// A place in the feed of all events. Only the store that gave it can read it; the default is the beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FeedCursor(String);

impl FeedCursor {
    /// The cursor of a text that a store, or [`as_str`](Self::as_str), gave.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text, to be kept; empty at the beginning.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number in it, for a store whose events have one sequence; 0 at the beginning.
    ///
    /// # Errors
    /// [`StoreError::Cursor`] when it is no number.
    pub fn sequence(&self) -> Result<u64, StoreError> {
        if self.0.is_empty() {
            return Ok(0);
        }
        self.0.parse().map_err(|_| StoreError::Cursor)
    }
}

/// A page of the feed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FeedPage {
    /// In order; none when nothing follows.
    pub events: Vec<Envelope>,
    /// Behind the last of them.
    pub next: FeedCursor,
}

impl FeedPage {
    /// The page of a store whose events have one sequence, read from a place on.
    pub fn by_sequence(events: Vec<Envelope>, after: &FeedCursor) -> Self {
        let next = events.last().map(|last| FeedCursor::new(last.sequence.to_string()));
        Self { next: next.unwrap_or_else(|| after.clone()), events }
    }
}

/// What guards a transaction as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fence {
    /// Nothing: each item's own condition is enough.
    None,
    /// A plan: nothing is stored unless this is still the epoch of [`COORDINATOR_LEASE`](super::COORDINATOR_LEASE).
    Plan(Epoch),
}

/// One state to store, with the events that tell of it.
#[derive(Debug, Clone)]
pub struct Write {
    /// What the store must hold.
    pub expect: Expect,
    /// What replaces it.
    pub next: Aggregate,
    /// Its events; the store numbers them.
    pub events: Vec<Envelope>,
}

impl Write {
    /// Whether it stores a new job.
    pub fn brings_job(&self) -> bool {
        matches!(self.next, Aggregate::Job(_)) && self.expect == Expect::Absent
    }

    /// Whether it ends a job, or one of its attempts, or asks for that.
    pub fn stops_job(&self) -> bool {
        let Aggregate::Job(job) = &self.next else { return false };
        self.expect != Expect::Absent && job.assignment().is_none_or(|assignment| assignment.cancel_requested)
    }

    /// What stores a decision of somebody, with new ids for its events: each is caused by the one before, and all of an
    /// aggregate's belong together.
    pub fn of(decision: &Decision, actor: Actor, mut id: impl FnMut() -> EventId) -> Self {
        let (aggregate, version) = (decision.next.id(), decision.next.version());
        let correlation = EventId::from_uuid(match aggregate {
            AggregateId::Job(id) => id.as_uuid(),
            AggregateId::Worker(id) => id.as_uuid(),
            AggregateId::Provider(id) => id.as_uuid(),
            AggregateId::Secret(id) => id.as_uuid(),
            AggregateId::Token(id) => id.as_uuid(),
            AggregateId::Platform(id) => id.as_uuid(),
        });
        let mut causation = None;
        let events = decision.events.iter().map(|event| {
            let (id, event) = (id(), event.clone());
            let causation = causation.replace(id);
            let (sequence, at, schema) = (0, decision.at, 1);
            Envelope { id, sequence, aggregate, version, correlation, causation, actor, at, schema, event }
        });
        let events = events.collect();
        Self { expect: decision.expect, next: decision.next.clone(), events }
    }
}

/// Why one item was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The store holds another version.
    #[error("conflict: the store has version {actual:?}")]
    Conflict {
        /// `None` where there is no such aggregate.
        actual: Option<u64>,
    },
    /// The tenant's idempotency key belongs to another job.
    #[error("the idempotency key belongs to job {existing}")]
    Duplicate {
        /// That job.
        existing: JobId,
    },
    /// The store has as many open jobs as it may.
    #[error("the queue is full: {limit} jobs")]
    Full {
        /// How many it may have.
        limit: usize,
    },
    /// The store can never hold this, whatever else is stored.
    #[error("the store refuses it for good: {why}")]
    Rejected {
        /// What it says.
        why: String,
    },
}

/// Why a store did nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot now; the same call may work later.
    #[error("the store is unavailable, try again in {retry_after:?}: {why}")]
    Unavailable {
        /// When to try again.
        retry_after: Duration,
        /// What happened.
        why: String,
    },
    /// The plan's epoch is over: another coordinator is active.
    #[error("the lease was taken: its epoch is {current:?}")]
    StaleEpoch {
        /// The epoch in force.
        current: Epoch,
    },
    /// It was taken away under this process: nothing is acknowledged any more, and the platform stops.
    #[error("the store is gone: {0}")]
    Gone(String),
    /// An item can never be stored as it is, such as a text that the database cannot represent. A call with several items
    /// does not say which: each is tried alone.
    #[error("the store refuses this for good: {0}")]
    Rejected(String),
    /// A cursor that this store did not give.
    #[error(
        "the cursor is not of this store, or of a later state of it than its database was restored to: begin again \
         without one"
    )]
    Cursor,
    /// Something else, which a repetition will not mend.
    #[error("the store failed: {0}")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}

const DISK_FULL: &str = "the disk of the data directory is full";

impl StoreError {
    /// Whether the same call may work later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// The disk that it writes to is full.
    pub fn disk_full() -> Self {
        Self::Unavailable { retry_after: Duration::from_secs(1), why: DISK_FULL.to_owned() }
    }

    /// Whether it is that.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Unavailable { why, .. } if why == DISK_FULL)
    }
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Whose.
    pub tenant: TenantId,
    /// In one of these states; empty means any.
    pub statuses: Vec<JobStatus>,
    /// With all these labels.
    pub labels: Vec<(String, String)>,
    /// At most this many; 0 means 100.
    pub limit: usize,
    /// Continue after this job, as [`JobPage::next`] says.
    pub after: Option<JobId>,
}

impl JobFilter {
    /// Whether it lets a job through, apart from paging.
    pub fn matches(&self, job: &Job) -> bool {
        *job.tenant() == self.tenant
            && (self.statuses.is_empty() || self.statuses.contains(&job.status()))
            && self.labels.iter().all(|(key, value)| job.spec().labels().get(key) == Some(value))
    }
}

/// One page of jobs.
#[derive(Debug, Clone, Default)]
pub struct JobPage {
    /// The newest first.
    pub jobs: Vec<Arc<Job>>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<JobId>,
}
