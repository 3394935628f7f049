//! A store in a PostgreSQL database, which many daemons may share.
//!
//! Everything lies in the schema `hodei`. What is remembered between two calls of jobs answers for those that ended, which
//! stay as they are, and where a commit checks it; every other read is as fresh as the database.

mod connection;
mod enqueue;
mod feed;
mod idle;
mod inbox;
mod incarnation;
mod leases;
mod list;
mod logs;
mod recent;
mod row;
mod rows;
mod schema;
mod transaction;
mod walks;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hodei_core::access::AccessToken;
use hodei_core::decision::{Aggregate, AggregateId};
use hodei_core::event::Envelope;
use hodei_core::id::{AttemptId, DaemonId, JobId, SecretId, StoreId, TokenId, WorkerId};
use hodei_core::job::{Job, TenantId};
use hodei_core::port::{
    AccessRepository, AuditRepository, Clock, Cluster, CommitError, DaemonBeat, Epoch, FeedCursor, FeedPage,
    Fence, IdGenerator, JobFilter, JobPage, JobQueue, JobRepository, LeaseStore, ProviderConfigRepository,
    SecretInfo, SecretRepository, Store, StoreError, WorkerRegistry, Write,
};
use hodei_core::provider::Provider;
use hodei_core::secret::Secret;
use hodei_core::time::Timestamp;
use hodei_core::worker::Worker;
use sqlx::postgres::{PgArguments, PgPool};
use sqlx::{AssertSqlSafe, Postgres};
use uuid::Uuid;

use super::column;
use crate::clock::SystemClock;
use crate::error::OpenError;
use crate::ids::SystemIds;
use connection::{CONNECTIONS, Database};
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
    /// For jobs submitted in transactions of a caller's own: they rise in the order of its calls.
    ids: Arc<SystemIds>,
    named: Arc<feed::LastNamed>,
}

/// Connections for output, beside those for state.
const LOG_CONNECTIONS: u32 = 4;

fn new_id() -> Uuid {
    SystemIds::default().uuid(SystemClock::default().now())
}

type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// The columns of [`row::job`], from every job that there is.
macro_rules! select_jobs {
    ($rest:literal) => {
        concat!(
            "SELECT j.id, j.tenant, j.record, s.spec FROM (SELECT id, tenant, status, record FROM hodei.jobs \
             UNION ALL SELECT id, tenant, status, record FROM hodei.history) j \
             JOIN hodei.specs s ON s.job = j.id ",
            $rest
        )
    };
}

/// The same, from those that are open, with this of their specs.
macro_rules! select_open {
    ($spec:literal, $rest:literal) => {
        concat!(
            "SELECT j.id, j.tenant, j.record, ",
            $spec,
            " FROM hodei.jobs j JOIN hodei.specs s ON s.job = j.id ",
            $rest
        )
    };
}

/// What lists show of a spec.
macro_rules! select_listed {
    ($rest:literal) => {
        select_open!("coalesce(s.listing, s.spec)", $rest)
    };
}

/// The columns of [`row::envelope`]: none of a type that the driver would ask the database about first, which it cannot
/// through a pooler.
macro_rules! select_events {
    ($rest:literal) => {
        concat!(
            "SELECT sequence, id, kind, aggregate, version, correlation, causation, actor, at, schema, event ",
            $rest
        )
    };
}

impl PostgresStore {
    /// Jobs that may be open: 10 million. Daemons that share a store count apart, so it is passed by what they take at
    /// once.
    pub const QUEUE_LIMIT: usize = 10_000_000;

    /// Connects to the database of a URL, `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, and makes its tables where
    /// they are missing.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the URL, the database, or the rights of its role.
    pub async fn connect(url: &str) -> Result<Self, OpenError> {
        Self::connect_as(url, new_id()).await
    }

    /// The same; where it is new, this is its id.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_as(url: &str, id: Uuid) -> Result<Self, OpenError> {
        Self::over(Database::connect(url, CONNECTIONS).await?, id).await
    }

    /// The same, over a pool of the caller's. One connection is enough: no call waits for a second.
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
            named: Arc::default(),
            ids: Arc::default(),
        })
    }

    /// What some jobs are known to be, completed by what the database has of the others.
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
        // By one look at both: what is taken in meanwhile is in one of them.
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

    /// The output of its jobs. A store with a pool of its own gives it another.
    #[must_use]
    pub fn log_store(&self) -> PostgresLogStore {
        PostgresLogStore::over(self.database.beside(LOG_CONNECTIONS))
    }

    /// The same, with room for this many open jobs.
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
        // While one waits for the disk, another is worked on: two servers of batches are as good as many.
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
        // What was remembered of them was of before.
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

#[async_trait]
impl JobRepository for PostgresStore {
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        self.completed(ids, self.recent.ended(self.database.broken(), ids, self.database.now())).await
    }

    async fn recent_jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        self.completed(ids, self.recent.seen(self.database.broken(), ids)).await
    }

    async fn list_jobs(&self, filter: &JobFilter) -> Result<JobPage, StoreError> {
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        let labels: std::collections::BTreeMap<_, _> = filter.labels.iter().cloned().collect();
        if labels.len() < filter.labels.iter().collect::<std::collections::BTreeSet<_>>().len() {
            // One label cannot have two values.
            return Ok(JobPage::default());
        }
        let sql = list::within_bytes(&walks::statement(list::COLUMNS, filter));
        let labels = column::json(&labels)?;
        let query = || {
            let mut query = sqlx::query(AssertSqlSafe(sql.clone()))
                .bind(filter.tenant.as_str())
                .bind(filter.after.map_or(Uuid::max(), |after| after.as_uuid()))
                .bind(column::int(limit as u64).saturating_add(1));
            if !filter.labels.is_empty() {
                query = query.bind(&labels);
            }
            for (key, value) in &filter.labels {
                query = query.bind(key).bind(value);
            }
            query
        };
        let rows = self.database.list(query).await?;
        list::page(&self.database, &rows, limit).await
    }

    async fn job_by_key(&self, tenant: &TenantId, key: &str) -> Result<Option<JobId>, StoreError> {
        let query = || {
            let query = sqlx::query("SELECT job FROM hodei.job_keys WHERE tenant = $1 AND job_key = $2");
            query.bind(tenant.as_str()).bind(key)
        };
        let rows = self.database.read(query).await?;
        rows.first().map(|found| row::get(found, 0).map(JobId::from_uuid)).transpose()
    }

    async fn ended_before(&self, before: Timestamp, limit: usize) -> Result<Vec<AttemptId>, StoreError> {
        // What ended before was created before, and an id of version 7 begins with that time.
        let millis = u64::try_from(before.as_micros() / 1000).unwrap_or(0);
        let first_after = uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid();
        let query = || {
            let sql = "SELECT id, record FROM hodei.history WHERE id < $1 AND ended_at < $2 \
                       ORDER BY id LIMIT $3";
            sqlx::query(sql).bind(first_after).bind(before.as_micros()).bind(column::int(limit as u64))
        };
        self.database.read(query).await?.iter().map(row::last_attempt).collect()
    }
}

#[async_trait]
impl JobQueue for PostgresStore {
    async fn open_jobs(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Arc<Job>>, StoreError> {
        // Also the nil id, which older programs took in.
        let query = || {
            match after {
                Some(after) => sqlx::query(select_listed!("WHERE j.id > $1 ORDER BY j.id LIMIT $2"))
                    .bind(after.as_uuid()),
                None => {
                    sqlx::query(select_listed!("WHERE j.id >= $1 ORDER BY j.id LIMIT $2")).bind(Uuid::nil())
                }
            }
            .bind(column::int(limit as u64))
        };
        let rows = self.database.read(query).await?;
        rows.iter().map(row::listed).collect()
    }

    async fn jobs_of_workers(&self, workers: &[WorkerId]) -> Result<Vec<Arc<Job>>, StoreError> {
        let workers: Vec<Uuid> = workers.iter().map(hodei_core::id::WorkerId::as_uuid).collect();
        let query =
            || sqlx::query(select_open!("s.spec", "WHERE j.worker = ANY($1) ORDER BY j.id")).bind(&workers);
        self.database.read(query).await?.iter().map(row::job).collect()
    }
}

#[async_trait]
impl WorkerRegistry for PostgresStore {
    async fn workers(&self, ids: &[WorkerId]) -> Result<Vec<Option<Arc<Worker>>>, StoreError> {
        let wanted: Vec<Uuid> = ids.iter().map(hodei_core::id::WorkerId::as_uuid).collect();
        let query = || sqlx::query("SELECT record FROM hodei.workers WHERE id = ANY($1)").bind(&wanted);
        let rows = self.database.read(query).await?;
        let stored: Vec<Arc<Worker>> = row::documents(&rows)?;
        Ok(column::in_order(ids, &stored, Worker::id))
    }

    async fn live_workers(&self) -> Result<Vec<Arc<Worker>>, StoreError> {
        let query = || sqlx::query("SELECT record FROM hodei.workers WHERE ended_at IS NULL ORDER BY id");
        let rows = self.database.read(query).await?;
        row::documents(&rows)
    }
}

#[async_trait]
impl ProviderConfigRepository for PostgresStore {
    async fn providers(&self) -> Result<Vec<Arc<Provider>>, StoreError> {
        let query = || sqlx::query("SELECT record FROM hodei.providers ORDER BY id");
        let rows = self.database.read(query).await?;
        row::documents(&rows)
    }
}

#[async_trait]
impl SecretRepository for PostgresStore {
    async fn secrets(&self, ids: &[SecretId]) -> Result<Vec<Option<Arc<Secret>>>, StoreError> {
        let wanted: Vec<Uuid> = ids.iter().map(SecretId::as_uuid).collect();
        let query = || sqlx::query("SELECT record FROM hodei.secrets WHERE id = ANY($1)").bind(&wanted);
        let rows = self.database.read(query).await?;
        let found: Vec<Arc<Secret>> = row::documents(&rows)?;
        Ok(column::in_order(ids, &found, Secret::id))
    }

    async fn list_secrets(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, StoreError> {
        let query = || {
            let sql = "SELECT json_build_object('name', r ->> 'name', 'at', (r ->> 'changed_at')::bigint)::text \
                       FROM (SELECT record::json r FROM hodei.secrets) secrets \
                       WHERE r ->> 'tenant' = $1 AND r ->> 'sealed' IS NOT NULL ORDER BY r ->> 'name' COLLATE \"C\"";
            sqlx::query(sql).bind(tenant.as_str())
        };
        let rows = self.database.read(query).await?;
        rows.iter().map(|found| row::document(found, 0).map(column::Listed::info)).collect()
    }
}

#[async_trait]
impl AccessRepository for PostgresStore {
    async fn tokens(&self, ids: &[TokenId]) -> Result<Vec<Option<Arc<AccessToken>>>, StoreError> {
        let wanted: Vec<Uuid> = ids.iter().map(TokenId::as_uuid).collect();
        let query = || sqlx::query("SELECT record FROM hodei.tokens WHERE id = ANY($1)").bind(&wanted);
        let rows = self.database.read(query).await?;
        let found: Vec<Arc<AccessToken>> = row::documents(&rows)?;
        Ok(column::in_order(ids, &found, AccessToken::id))
    }

    async fn list_tokens(&self) -> Result<Vec<Arc<AccessToken>>, StoreError> {
        let query = || sqlx::query("SELECT record FROM hodei.tokens ORDER BY id");
        let rows = self.database.read(query).await?;
        row::documents(&rows)
    }
}

#[async_trait]
impl AuditRepository for PostgresStore {
    async fn history(&self, aggregate: AggregateId) -> Result<Vec<Envelope>, StoreError> {
        let (kind, id) = column::aggregate_key(aggregate);
        let query = || {
            let sql = select_events!(
                "FROM hodei.events WHERE aggregate = $1 AND kind = $2 ORDER BY version, sequence"
            );
            sqlx::query(sql).bind(id).bind(kind)
        };
        self.database.read(query).await?.iter().map(row::envelope).collect()
    }

    async fn feed(&self, after: &FeedCursor, limit: usize) -> Result<FeedPage, StoreError> {
        feed::page(&self.database, &self.named, after, limit).await
    }

    async fn record(&self, events: &[Envelope]) -> Result<(), StoreError> {
        transaction::record(&self.database, events).await
    }

    async fn feed_end(&self) -> Result<FeedCursor, StoreError> {
        feed::end(&self.database).await
    }

    async fn feed_lag(&self, now: Timestamp) -> Result<Duration, StoreError> {
        feed::lag(&self.database, now).await
    }
}

#[async_trait]
impl LeaseStore for PostgresStore {
    fn is_exclusive(&self) -> bool {
        false
    }

    async fn beat(&self, beat: &DaemonBeat) -> Result<Cluster, StoreError> {
        leases::beat(&self.database, beat).await
    }

    async fn take_lease(
        &self,
        name: &str,
        seen: Epoch,
        holder: DaemonId,
    ) -> Result<Option<Epoch>, StoreError> {
        leases::take(&self.database, name, seen, holder).await
    }

    async fn leave(&self, daemon: DaemonId) -> Result<(), StoreError> {
        leases::leave(&self.database, daemon).await
    }
}
