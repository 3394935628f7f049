//! Store in a PostgreSQL database, which several daemons may share.
//!
//! All tables are in the schema `hodei`. The cache of jobs only answers for ended jobs, which do not change, and where
//! a commit checks the answer; every other read goes to the database.

mod audit;
mod columns;
mod connection;
mod enqueue;
mod feed;
mod idle;
mod inbox;
mod incarnation;
mod jobs;
mod leases;
mod list;
mod logs;
mod providers;
mod queue;
mod recent;
mod row;
mod rows;
mod schema;
mod secrets;
mod tokens;
mod transaction;
mod walks;
mod workers;

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::decision::{Aggregate, AggregateId};
use hodei_core::id::{JobId, StoreId};
use hodei_core::job::Job;
use hodei_core::port::{Clock, CommitError, Fence, IdGenerator, Store, StoreError, Write};
use hodei_core::time::Timestamp;
use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgPool};
use uuid::Uuid;

use crate::clock::SystemClock;
use crate::error::OpenError;
use crate::ids::SystemIds;
use columns::select_jobs;
use connection::{Database, MAX_CONNECTIONS};
pub(crate) use inbox::PostgresInbox;
pub use logs::PostgresLogStore;
use recent::Recent;
use transaction::OpenJobs;

/// A store in a PostgreSQL database. Clones share it.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    id: StoreId,
    owner: StoreId,
    database: Database,
    open_jobs: Arc<OpenJobs>,
    recent: Arc<Recent>,
    /// Ids for jobs that are submitted in callers' transactions; they rise in the order of the calls.
    ids: Arc<SystemIds>,
    last_logged: Arc<feed::LastLogged>,
}

/// Maximum number of connections for output, besides those for state.
const MAX_LOG_CONNECTIONS: u32 = 4;

fn new_id() -> Uuid {
    SystemIds::default().uuid(SystemClock::default().now())
}

type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

impl PostgresStore {
    /// Maximum number of open jobs: 10 million. Each daemon that shares the store counts for itself, so the limit may
    /// be exceeded by the jobs that they accept at the same time.
    pub const QUEUE_LIMIT: usize = 10_000_000;

    /// Connects to the database at a URL, `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, and creates missing tables.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the URL, the database, or the rights of its role.
    pub async fn connect(url: &str) -> Result<Self, OpenError> {
        Self::connect_as(url, new_id()).await
    }

    /// Connects as [`connect`](Self::connect) does; a new store gets this id.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_as(url: &str, id: Uuid) -> Result<Self, OpenError> {
        Self::over(Database::connect(url, MAX_CONNECTIONS).await?, id).await
    }

    /// Connects over a caller's pool. One connection is enough: no call waits for a second one.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn from_pool(pool: PgPool) -> Result<Self, OpenError> {
        Self::over(Database::of(pool), new_id()).await
    }

    async fn over(database: Database, id: Uuid) -> Result<Self, OpenError> {
        let (id, owner) = schema::prepare(&database, id).await?;
        let open_jobs = Arc::new(OpenJobs::new(Self::QUEUE_LIMIT));
        Ok(Self {
            id,
            owner,
            database,
            open_jobs,
            recent: Arc::default(),
            last_logged: Arc::default(),
            ids: Arc::default(),
        })
    }

    /// Completes the known jobs with the others from the database.
    async fn completed(
        &self,
        ids: &[JobId],
        mut known: Vec<Option<Arc<Job>>>,
    ) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        let unknown = ids.iter().zip(&known).filter(|(_, job)| job.is_none());
        let unknown: Vec<JobId> = unknown.map(|(id, _)| *id).collect();
        if unknown.is_empty() {
            return Ok(known);
        }
        let broken = self.database.broken();
        let mut found = self.read_jobs(&unknown).await?;
        self.recent.put(broken, &found);
        found.sort_by_key(|job| job.id());
        for (id, job) in ids.iter().zip(&mut known).filter(|(_, job)| job.is_none()) {
            let at = found.binary_search_by_key(id, |job| job.id());
            *job = at.ok().and_then(|at| found.get(at).cloned());
        }
        Ok(known)
    }

    async fn read_jobs(&self, ids: &[JobId]) -> Result<Vec<Arc<Job>>, StoreError> {
        let wanted: Vec<Uuid> = ids.iter().map(JobId::as_uuid).collect();
        // One query reads both tables, so that a job that is accepted meanwhile appears in one of them.
        let query = || {
            let sql = select_jobs!(
                "WHERE j.id = ANY($1) UNION ALL SELECT id, NULL, NULL, NULL FROM hodei.inbox WHERE id = ANY($1)"
            );
            sqlx::query(sql).bind(&wanted)
        };
        let mut rows = self.database.read(query).await?;
        let waits = |row: &sqlx::postgres::PgRow| {
            row::get::<Option<&str>>(row, 1).is_ok_and(|tenant| tenant.is_none())
        };
        if rows.iter().any(waits) {
            self.take_in(Some(&wanted)).await?;
            rows = self.database.read(query).await?;
            rows.retain(|row| !waits(row));
        }
        rows.iter().map(row::job).collect()
    }

    /// Returns the log store in the same database. A store with its own pool gives it another pool.
    #[must_use]
    pub fn log_store(&self) -> PostgresLogStore {
        PostgresLogStore::over(self.database.beside(MAX_LOG_CONNECTIONS))
    }

    /// Sets the maximum number of open jobs.
    #[must_use]
    pub fn with_queue_limit(mut self, jobs: usize) -> Self {
        self.open_jobs = Arc::new(OpenJobs::new(jobs));
        self
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn id(&self) -> StoreId {
        self.id
    }

    fn owner(&self) -> StoreId {
        self.owner
    }

    fn commits_at_once(&self) -> usize {
        // One batch can be decided while another waits for the disk; more than two at once gain nothing.
        self.database.connections().clamp(1, 2) as usize
    }

    async fn commit(
        &self,
        fence: Fence,
        writes: &[Write],
    ) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        let broken = self.database.broken();
        let outcomes = transaction::commit(&self.database, &self.open_jobs, fence, writes).await?;
        let stored = writes.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
        let jobs = stored.filter_map(|(write, _)| match &write.next {
            Aggregate::Job(job) => Some(job),
            _ => None,
        });
        self.recent.put(broken, jobs);
        // The cached state of these jobs is outdated.
        let conflicts = writes.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_err());
        let conflicts = conflicts.filter_map(|(write, _)| match write.next.id() {
            AggregateId::Job(id) => Some(id),
            _ => None,
        });
        self.recent.forget(&conflicts.collect::<Vec<_>>());
        Ok(outcomes)
    }

    async fn forget(&self, jobs: &[JobId], before: Timestamp) -> Result<(), StoreError> {
        let forgotten = transaction::forget(&self.database, jobs, before).await;
        self.recent.forget(jobs);
        forgotten
    }
}
