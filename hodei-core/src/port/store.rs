//! The port of stores: repositories, transactions, and the feed of events.

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

use super::store_error::StoreError;
use super::{Epoch, LeaseStore, SecretInfo};

/// The single source of truth: all repositories, with one transaction over them.
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
    /// Returns the id of the store, made with the store and kept for its life.
    fn id(&self) -> StoreId;

    /// Returns the owner id of everything that its platforms create: the id of the store, except where a copy of the
    /// store may run elsewhere.
    fn owner(&self) -> StoreId {
        self.id()
    }

    /// Returns how many commits the store processes concurrently, so that a second one need not wait for the first.
    fn commits_at_once(&self) -> usize {
        1
    }

    /// Stores states and their events in one transaction, and returns a result for each item: a refused item does not
    /// affect the others. Items of one aggregate are applied in order; after a conflict, each later item of the same
    /// aggregate is a conflict too.
    ///
    /// # Errors
    /// [`StoreError`] when nothing was stored.
    async fn commit(
        &self,
        fence: Fence,
        writes: &[Write],
    ) -> Result<Vec<Result<(), CommitError>>, StoreError>;

    /// Deletes the given jobs that ended, with their history. Also deletes workers that terminated, tokens that stopped
    /// being valid, and events outside of any transition, all before a point in time. The idempotency key of a deleted
    /// job is kept for [`KEY_OUTLIVES`].
    ///
    /// # Errors
    /// [`StoreError`] when nothing was deleted.
    async fn forget(&self, jobs: &[JobId], before: Timestamp) -> Result<(), StoreError>;
}

/// How long an idempotency key is kept after its job was deleted: 24 hours.
pub const KEY_OUTLIVES: Duration = Duration::from_secs(24 * 3600);

/// Reads jobs.
#[async_trait]
pub trait JobRepository: Debug + Send + Sync + 'static {
    /// Returns jobs by id, in the order of `ids`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError>;

    /// Returns jobs like [`jobs`](Self::jobs), but may read from memory, so that a state may be outdated where other
    /// daemons write to the store. A decision over such a state is safe, since its commit fails when the state changed.
    /// Before refusing an input because of such a state, read [`jobs`](Self::jobs).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn recent_jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        self.jobs(ids).await
    }

    /// Returns a page of a tenant's jobs, the newest first, each as [`Job::listing`] shows it: the long parts of a spec
    /// are not read. A page may be short and still have a [`next`](JobPage::next).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_jobs(&self, filter: &JobFilter) -> Result<JobPage, StoreError>;

    /// Returns the job of a tenant's idempotency key.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn job_by_key(&self, tenant: &TenantId, key: &str) -> Result<Option<JobId>, StoreError>;

    /// Returns up to `limit` jobs of all tenants that ended before a point in time, in the order of their ids, each
    /// with its last attempt. A job whose id has a later time may be left out.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn ended_before(&self, before: Timestamp, limit: usize) -> Result<Vec<AttemptId>, StoreError>;
}

/// Reads the jobs that are not terminal, for takeover and sweeps.
#[async_trait]
pub trait JobQueue: Debug + Send + Sync + 'static {
    /// Returns up to `limit` jobs that are not terminal, in the order of their ids, after `after`, each as
    /// [`Job::listing`] shows it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn open_jobs(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Arc<Job>>, StoreError>;

    /// Returns every job that is assigned to, or runs on, one of some workers, in the order of their ids.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn jobs_of_workers(&self, workers: &[WorkerId]) -> Result<Vec<Arc<Job>>, StoreError>;
}

/// Reads workers.
#[async_trait]
pub trait WorkerRegistry: Debug + Send + Sync + 'static {
    /// Returns workers by id, in the order of `ids`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn workers(&self, ids: &[WorkerId]) -> Result<Vec<Option<Arc<Worker>>>, StoreError>;

    /// Returns every worker that is not terminated, in the order of their ids.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn live_workers(&self) -> Result<Vec<Arc<Worker>>, StoreError>;
}

/// Reads providers.
#[async_trait]
pub trait ProviderConfigRepository: Debug + Send + Sync + 'static {
    /// Returns every provider, in the order of their ids.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn providers(&self) -> Result<Vec<Arc<Provider>>, StoreError>;
}

/// Reads secrets, with their values sealed.
#[async_trait]
pub trait SecretRepository: Debug + Send + Sync + 'static {
    /// Returns secrets by id, in the order of `ids`; also deleted ones.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn secrets(&self, ids: &[SecretId]) -> Result<Vec<Option<Arc<Secret>>>, StoreError>;

    /// Returns a tenant's secrets that have a value, in the order of their names.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_secrets(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, StoreError>;
}

/// Reads tokens for clients.
#[async_trait]
pub trait AccessRepository: Debug + Send + Sync + 'static {
    /// Returns tokens by id, in the order of `ids`; also those that are not valid any more.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn tokens(&self, ids: &[TokenId]) -> Result<Vec<Option<Arc<AccessToken>>>, StoreError>;

    /// Returns every token, in the order of their ids.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_tokens(&self) -> Result<Vec<Arc<AccessToken>>, StoreError>;
}

/// Reads events, which are both history and outbox, and stores events outside of any transition.
#[async_trait]
pub trait AuditRepository: Debug + Send + Sync + 'static {
    /// Returns the whole history of one aggregate, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn history(&self, aggregate: AggregateId) -> Result<Vec<Envelope>, StoreError>;

    /// Returns up to `limit` events of all aggregates after a place in the feed. Every reader sees the same order, and
    /// a reader that continues from [`FeedPage::next`] sees each event exactly once.
    ///
    /// # Errors
    /// [`StoreError::Cursor`] when the cursor is not from this store; [`StoreError`].
    async fn feed(&self, after: &FeedCursor, limit: usize) -> Result<FeedPage, StoreError>;

    /// Returns the place after the last event that the feed shows now.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn feed_end(&self) -> Result<FeedCursor, StoreError>;

    /// Stores events outside of any transition, such as refusals: all or none. [`forget`](Store::forget) deletes them
    /// by their age.
    ///
    /// # Errors
    /// [`StoreError`] when nothing was stored, or it is unknown whether the events were stored.
    async fn record(&self, events: &[Envelope]) -> Result<(), StoreError>;

    /// Returns the age of the oldest stored event that the feed does not show yet, because a transaction of another
    /// client may hold it back. Zero where the feed shows every event at once.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn feed_lag(&self, now: Timestamp) -> Result<Duration, StoreError> {
        let _ = now;
        Ok(Duration::ZERO)
    }
}

/// A place in the feed of all events. Only the store that returned it can read it; the default is the beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FeedCursor(String);

impl FeedCursor {
    /// Makes a cursor of the text that a store or [`as_str`](Self::as_str) returned.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text of the cursor, for storage; empty at the beginning.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the sequence number in the cursor, for a store whose events have one sequence; 0 at the beginning.
    ///
    /// # Errors
    /// [`StoreError::Cursor`] when the text is not a number.
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
    /// The events in order; empty when none follow.
    pub events: Vec<Envelope>,
    /// The place after the last of them.
    pub next: FeedCursor,
}

impl FeedPage {
    /// Makes the page of a store whose events have one sequence, from the events after a place.
    pub fn by_sequence(events: Vec<Envelope>, after: &FeedCursor) -> Self {
        let next = events.last().map(|last| FeedCursor::new(last.sequence.to_string()));
        Self { next: next.unwrap_or_else(|| after.clone()), events }
    }
}

/// The condition of a transaction as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fence {
    /// No condition beyond that of each item.
    None,
    /// The transaction of a plan: it is stored only while this is the epoch of
    /// [`COORDINATOR_LEASE`](super::COORDINATOR_LEASE).
    Plan(Epoch),
}

/// One state to store, with its events.
#[derive(Debug, Clone)]
pub struct Write {
    /// The condition on the stored state.
    pub expect: Expect,
    /// The new state.
    pub next: Aggregate,
    /// The events; the store assigns their sequence numbers.
    pub events: Vec<Envelope>,
}

impl Write {
    /// Whether the write creates a job.
    pub fn brings_job(&self) -> bool {
        matches!(self.next, Aggregate::Job(_)) && self.expect == Expect::Absent
    }

    /// Whether the write ends a job or one of its attempts, or requests a cancel.
    pub fn stops_job(&self) -> bool {
        let Aggregate::Job(job) = &self.next else { return false };
        self.expect != Expect::Absent && job.assignment().is_none_or(|assignment| assignment.cancel_requested)
    }

    /// Makes the write of a decision of `actor`, with new ids for its events. Each event is caused by the one before;
    /// all events of an aggregate share their correlation.
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

/// Why an item of a commit was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The stored version differs from the expected one.
    #[error("conflict: the store has version {actual:?}")]
    Conflict {
        /// The stored version; `None` where the aggregate does not exist.
        actual: Option<u64>,
    },
    /// The idempotency key belongs to another job of the tenant.
    #[error("the idempotency key belongs to job {existing}")]
    Duplicate {
        /// The job that has the key.
        existing: JobId,
    },
    /// The store has as many open jobs as it may have.
    #[error("the queue is full with {limit} open jobs: try again when some have ended")]
    Full {
        /// Maximum number of open jobs.
        limit: usize,
    },
    /// The store can never hold this item.
    #[error("the store refuses it for good: {why}")]
    Rejected {
        /// The reason.
        why: String,
    },
}

/// The filter of a list of jobs.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Tenant of the jobs.
    pub tenant: TenantId,
    /// States of the jobs; empty means any.
    pub statuses: Vec<JobStatus>,
    /// Labels that the jobs must have, all of them.
    pub labels: Vec<(String, String)>,
    /// Maximum number of jobs; 0 means 100.
    pub limit: usize,
    /// Continue after this job: the [`JobPage::next`] of the page before.
    pub after: Option<JobId>,
}

impl JobFilter {
    /// Whether a job matches the filter, apart from paging.
    pub fn matches(&self, job: &Job) -> bool {
        *job.tenant() == self.tenant
            && (self.statuses.is_empty() || self.statuses.contains(&job.status()))
            && self.labels.iter().all(|(key, value)| job.spec().labels().get(key) == Some(value))
    }
}

/// One page of jobs.
#[derive(Debug, Clone, Default)]
pub struct JobPage {
    /// The jobs, the newest first.
    pub jobs: Vec<Arc<Job>>,
    /// Where the next page begins; `None` after the last page.
    pub next: Option<JobId>,
}
