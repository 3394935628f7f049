//! A store in one SQLite database: write-ahead log, an fsync for each commit.
//!
//! The data directory is locked, so this process is the only writer. That is what lets recent jobs, workers and
//! providers be answered from memory.

mod files;
mod identity;
mod list;
mod recent;
mod row;
mod schema;
mod transaction;
mod walks;

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::access::AccessToken;
use hodei_core::decision::AggregateId;
use hodei_core::event::Envelope;
use hodei_core::id::{AttemptId, DaemonId, JobId, SecretId, StoreId, TokenId, WorkerId};
use hodei_core::job::{Job, TenantId};
use hodei_core::port::{
    AccessRepository, AuditRepository, Cluster, CommitError, DaemonBeat, Epoch, FeedCursor, FeedPage, Fence,
    JobFilter, JobPage, JobQueue, JobRepository, LeaseStore, ProviderConfigRepository, SecretInfo,
    SecretRepository, Store, StoreError, WorkerRegistry, Write,
};
use hodei_core::provider::Provider;
use hodei_core::secret::Secret;
use hodei_core::time::Timestamp;
use hodei_core::worker::Worker;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::{DataDir, FEED_PAGE_BYTES, column, fitting};
use crate::error::OpenError;
use files::Files;
use identity::Copies;
use recent::Recent;
use row::Hex;
use schema::{Pools, store_error};
use walks::Interrupt;

/// A store in the database of a data directory. Clones share it.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    id: StoreId,
    pools: Pools,
    recent: Arc<Recent>,
    queue_limit: usize,
    /// They hold the directory for as long as the store is.
    files: Arc<Files>,
}

impl SqliteStore {
    /// Jobs that may be open: 10 million.
    pub const QUEUE_LIMIT: usize = 10_000_000;

    /// Opens the database of a data directory, or makes it: then `id` becomes the store's.
    ///
    /// # Errors
    /// [`OpenError`] names the file and what is wrong with it; [`OpenError::Copied`] where it is a copy of a database that
    /// is still there.
    pub async fn open(dir: Arc<DataDir>, id: Uuid) -> Result<Self, OpenError> {
        Self::open_as(dir, id, Copies::Refused).await
    }

    /// Makes the database of a data directory, a copy of another as a rule, a store of its own with this id. What the
    /// original runs stays the original's; jobs that the copy takes for running run again here.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn adopt(dir: Arc<DataDir>, id: Uuid) -> Result<StoreId, OpenError> {
        let store = Self::open_as(dir, id, Copies::Adopted).await?;
        store.close().await;
        Ok(store.id)
    }

    async fn open_as(dir: Arc<DataDir>, id: Uuid, copies: Copies) -> Result<Self, OpenError> {
        dir.lock_database()?;
        let path = dir.database();
        let pools = schema::connect(&path).await?;
        let known = schema::prepare(&path, &pools.writer, id).await?;
        let id = identity::settle(&path, &pools.writer, known, id, copies).await?;
        let loaded = async { schema::load(&mut *pools.writer.acquire().await?).await };
        let loaded = loaded.await.map_err(|error| schema::open_error(&path, error))?;
        let recent = Arc::new(Recent::new(loaded));
        let files = Files::new(dir).map_err(|source| OpenError::File { path, source })?;
        Ok(Self { id, pools, recent, queue_limit: Self::QUEUE_LIMIT, files: Arc::new(files) })
    }

    /// Closes the database, and leaves one file. Every later call fails.
    pub async fn close(&self) {
        for pool in [&self.pools.lists, &self.pools.readers] {
            pool.close().await;
        }
        if let Ok(mut writer) = self.pools.writer.acquire().await {
            let _ = self.files.check(&mut writer).await;
            // The last connection takes the log with it, where its pages are in the database.
            let written = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut *writer).await;
            let _ = written.inspect_err(|error| tracing::debug!(%error, "the log stays"));
        }
        self.pools.writer.close().await;
    }

    /// Who writes, and to what.
    fn writer(&self) -> transaction::Writer<'_> {
        transaction::Writer { pool: &self.pools.writer, recent: &self.recent, files: &self.files }
    }

    /// The same, with room for this many open jobs.
    #[must_use]
    pub fn with_queue_limit(mut self, jobs: usize) -> Self {
        self.queue_limit = jobs;
        self
    }

    async fn rows(&self, query: Query<'_>) -> Result<Vec<SqliteRow>, StoreError> {
        query.fetch_all(&self.pools.readers).await.map_err(store_error)
    }

    /// What people ask: a statement whose caller goes is interrupted.
    async fn listed(&self, query: Query<'_>) -> Result<Vec<SqliteRow>, StoreError> {
        let mut connection = self.pools.lists.acquire().await.map_err(store_error)?;
        let interrupt = Interrupt::default();
        // It replaces that of the statement before, which may have been interrupted.
        let mut handle = connection.lock_handle().await.map_err(store_error)?;
        handle.set_progress_handler(STEPS, interrupt.goes_on());
        drop(handle);
        let rows = query.fetch_all(&mut *connection).await;
        interrupt.answered();
        rows.map_err(store_error)
    }
}

/// Steps of a statement between two looks at whether its caller is still there: some hundred microseconds.
const STEPS: i32 = 20_000;

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// The columns of [`row::job`].
macro_rules! select_jobs {
    ($($rest:literal)*) => {
        concat!("SELECT jobs.id, tenant, record, coalesce(long_specs.spec, specs.spec) FROM jobs \
            JOIN specs ON specs.job = jobs.id LEFT JOIN long_specs ON long_specs.job = jobs.id ", $($rest),*)
    };
}

#[async_trait]
impl Store for SqliteStore {
    fn id(&self) -> StoreId {
        self.id
    }

    async fn commit(
        &self,
        fence: Fence,
        writes: &[Write],
    ) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        let commit = || transaction::commit(self.writer(), self.queue_limit, fence, writes);
        let (brings_jobs, reserve) = (writes.iter().any(Write::brings_job), self.files.reserve());
        if brings_jobs && !reserve.is_held() {
            return Err(StoreError::disk_full());
        }
        match commit().await {
            Err(error) if error.is_disk_full() && !brings_jobs => {
                let has_room = writes.iter().any(Write::stops_job) && reserve.release();
                if has_room { commit().await } else { Err(error) }
            }
            answer => answer,
        }
    }

    async fn forget(&self, jobs: &[JobId], before: Timestamp) -> Result<(), StoreError> {
        transaction::forget(self.writer(), jobs, before).await
    }
}

#[async_trait]
impl JobRepository for SqliteStore {
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        let mut found = self.recent.jobs(ids);
        let missing: Vec<Hex> = ids
            .iter()
            .zip(&found)
            .filter(|(_, job)| job.is_none())
            .map(|(id, _)| Hex(id.as_uuid()))
            .collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let query = sqlx::query(select_jobs!("WHERE jobs.id IN (SELECT unhex(value) FROM json_each(?))"));
        let rows = self.rows(query.bind(column::json(&missing)?)).await?;
        let mut stored = rows.iter().map(row::job).collect::<Result<Vec<_>, _>>()?;
        stored.sort_by_key(|job| job.id());
        for (id, job) in ids.iter().zip(&mut found) {
            if job.is_none() {
                *job = stored.binary_search_by_key(id, |job| job.id()).ok().map(|at| stored[at].clone());
            }
        }
        Ok(found)
    }

    async fn list_jobs(&self, filter: &JobFilter) -> Result<JobPage, StoreError> {
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        let after = filter.after.map_or(Uuid::max(), |after| after.as_uuid());
        let mut query = sqlx::query(AssertSqlSafe(walks::statement(list::SIZES, filter)))
            .bind(filter.tenant.as_str())
            .bind(row::blob(after))
            .bind(column::int(limit as u64 + 1));
        for (key, value) in &filter.labels {
            query = query.bind(key).bind(value);
        }
        let sizes = self.listed(query).await?;
        list::page(self, &sizes, limit).await
    }

    async fn job_by_key(&self, tenant: &TenantId, key: &str) -> Result<Option<JobId>, StoreError> {
        let query = sqlx::query("SELECT job FROM job_keys WHERE tenant = ? AND job_key = ?");
        let rows = self.rows(query.bind(tenant.as_str()).bind(key)).await?;
        rows.first().map(|found| row::uuid(found, 0).map(JobId::from_uuid)).transpose()
    }

    async fn ended_before(&self, before: Timestamp, limit: usize) -> Result<Vec<AttemptId>, StoreError> {
        // What ended before was created before, and an id of version 7 begins with that time.
        let millis = u64::try_from(before.as_micros() / 1000).unwrap_or(0);
        let first_after = uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid();
        let query =
            sqlx::query("SELECT id, record FROM jobs WHERE id < ? AND ended_at < ? ORDER BY id LIMIT ?");
        let query = query.bind(row::blob(first_after)).bind(before.as_micros());
        let rows = self.listed(query.bind(column::int(limit as u64))).await?;
        rows.iter().map(row::last_attempt).collect()
    }
}

#[async_trait]
impl JobQueue for SqliteStore {
    async fn open_jobs(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Arc<Job>>, StoreError> {
        let after = after.map_or(Vec::new(), |id| row::blob(id.as_uuid()));
        let query = sqlx::query(list::select_listed!(
            "WHERE ended_at IS NULL AND jobs.id > ? ORDER BY jobs.id LIMIT ?"
        ));
        let rows = self.rows(query.bind(after).bind(column::int(limit as u64))).await?;
        rows.iter().map(row::listed).collect()
    }

    async fn jobs_of_workers(&self, workers: &[WorkerId]) -> Result<Vec<Arc<Job>>, StoreError> {
        let found = self.jobs(&self.recent.assigned(workers)).await?;
        // It may have been taken from the worker since.
        let has = |job: &Arc<Job>| job.assignment().is_some_and(|at| workers.contains(&at.worker));
        Ok(found.into_iter().flatten().filter(has).collect())
    }
}

#[async_trait]
impl WorkerRegistry for SqliteStore {
    async fn workers(&self, ids: &[WorkerId]) -> Result<Vec<Option<Arc<Worker>>>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            found.push(match self.recent.worker(*id) {
                Some(worker) => Some(worker),
                None => {
                    let query = sqlx::query("SELECT record FROM workers WHERE id = ?");
                    let rows = self.rows(query.bind(row::blob(id.as_uuid()))).await?;
                    rows.first().map(|row| row::document(row, 0)).transpose()?.map(Arc::new)
                }
            });
        }
        Ok(found)
    }

    async fn live_workers(&self) -> Result<Vec<Arc<Worker>>, StoreError> {
        Ok(self.recent.live_workers())
    }
}

#[async_trait]
impl ProviderConfigRepository for SqliteStore {
    async fn providers(&self) -> Result<Vec<Arc<Provider>>, StoreError> {
        Ok(self.recent.providers())
    }
}

#[async_trait]
impl SecretRepository for SqliteStore {
    async fn secrets(&self, ids: &[SecretId]) -> Result<Vec<Option<Arc<Secret>>>, StoreError> {
        let wanted: Vec<Hex> = ids.iter().map(|id| Hex(id.as_uuid())).collect();
        let query =
            sqlx::query("SELECT record FROM secrets WHERE id IN (SELECT unhex(value) FROM json_each(?))");
        let rows = self.rows(query.bind(column::json(&wanted)?)).await?;
        let found: Vec<Arc<Secret>> = row::documents(&rows)?;
        Ok(column::in_order(ids, &found, Secret::id))
    }

    async fn list_secrets(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, StoreError> {
        let query = sqlx::query(
            "SELECT json_object('name', record ->> 'name', 'at', record ->> 'changed_at') FROM secrets \
             WHERE record ->> 'tenant' = ? AND record ->> 'sealed' IS NOT NULL ORDER BY record ->> 'name'",
        );
        let rows = self.listed(query.bind(tenant.as_str())).await?;
        rows.iter().map(|row| row::document(row, 0).map(column::Listed::info)).collect()
    }
}

#[async_trait]
impl AccessRepository for SqliteStore {
    async fn tokens(&self, ids: &[TokenId]) -> Result<Vec<Option<Arc<AccessToken>>>, StoreError> {
        let wanted: Vec<Hex> = ids.iter().map(|id| Hex(id.as_uuid())).collect();
        let query =
            sqlx::query("SELECT record FROM tokens WHERE id IN (SELECT unhex(value) FROM json_each(?))");
        let rows = self.rows(query.bind(column::json(&wanted)?)).await?;
        let found: Vec<Arc<AccessToken>> = row::documents(&rows)?;
        Ok(column::in_order(ids, &found, AccessToken::id))
    }

    async fn list_tokens(&self) -> Result<Vec<Arc<AccessToken>>, StoreError> {
        let rows = self.listed(sqlx::query("SELECT record FROM tokens ORDER BY id")).await?;
        row::documents(&rows)
    }
}

#[async_trait]
impl AuditRepository for SqliteStore {
    async fn history(&self, aggregate: AggregateId) -> Result<Vec<Envelope>, StoreError> {
        let (kind, id) = column::aggregate_key(aggregate);
        let query = sqlx::query("SELECT * FROM events WHERE aggregate = ? AND kind = ? ORDER BY sequence");
        self.listed(query.bind(row::blob(id)).bind(kind)).await?.iter().map(row::envelope).collect()
    }

    async fn feed(&self, after: &FeedCursor, limit: usize) -> Result<FeedPage, StoreError> {
        // Their lengths first, which reads none of them.
        let after_number = column::int(after.sequence()?);
        let sizes =
            "SELECT sequence, octet_length(event) FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?";
        let sizes =
            self.listed(sqlx::query(sizes).bind(after_number).bind(column::int(limit as u64))).await?;
        let sizes = sizes.iter().map(row::numbers).collect::<Result<Vec<_>, _>>()?;
        let fits = fitting(sizes.iter().map(|(_, bytes)| *bytes), FEED_PAGE_BYTES);
        let Some((last, _)) = fits.checked_sub(1).and_then(|last| sizes.get(last)) else {
            return Ok(FeedPage::by_sequence(Vec::new(), after));
        };
        let query =
            sqlx::query("SELECT * FROM events WHERE sequence > ? AND sequence <= ? ORDER BY sequence");
        let query = query.bind(after_number).bind(*last);
        let events = self.listed(query).await?.iter().map(row::envelope).collect::<Result<_, _>>()?;
        Ok(FeedPage::by_sequence(events, after))
    }

    async fn record(&self, events: &[Envelope]) -> Result<(), StoreError> {
        transaction::record(self.writer(), events).await
    }

    async fn feed_end(&self) -> Result<FeedCursor, StoreError> {
        let (_, last) = self.recent.counts();
        Ok(FeedCursor::new(last.to_string()))
    }
}

#[async_trait]
impl LeaseStore for SqliteStore {
    fn is_exclusive(&self) -> bool {
        true
    }

    async fn beat(&self, beat: &DaemonBeat) -> Result<Cluster, StoreError> {
        Ok(self.recent.presence(|presence| presence.beat(beat)))
    }

    async fn take_lease(
        &self,
        name: &str,
        seen: Epoch,
        holder: DaemonId,
    ) -> Result<Option<Epoch>, StoreError> {
        transaction::take_lease(self.writer(), name, seen, holder).await
    }

    async fn leave(&self, daemon: DaemonId) -> Result<(), StoreError> {
        self.recent.presence(|presence| presence.leave(daemon));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hodei_core::port::{Clock, ClockExt};

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn a_checkpoint_of_another_program_is_no_loss_and_a_log_that_is_cut_is() {
        let dir = tempfile::tempdir().unwrap();
        let locked = Arc::new(DataDir::lock(dir.path()).unwrap());
        let store = SqliteStore::open(locked, Uuid::nil()).await.unwrap();
        let write =
            async |name: &str| store.take_lease(name, Epoch(0), DaemonId::from_uuid(Uuid::max())).await;
        for name in ["a", "b", "c"] {
            write(name).await.unwrap();
        }
        let url = format!("sqlite:{}/hodei.db", dir.path().display());
        let other = sqlx::SqlitePool::connect(&url).await.unwrap();
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&other).await.unwrap();
        let log = dir.path().join("hodei.db-wal");
        assert_eq!(log.metadata().unwrap().len(), 0);
        write("d").await.unwrap();
        write("e").await.unwrap();
        std::fs::File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
        let why = write("f").await.unwrap_err();
        assert!(why.to_string().contains("hodei.db-wal was cut short"), "{why}");
    }

    #[tokio::test]
    async fn a_list_that_is_given_up_holds_up_no_other() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), SystemClock::default());
        let locked = Arc::new(DataDir::lock(dir.path()).unwrap());
        let store = SqliteStore::open(locked, Uuid::nil()).await.unwrap();
        let endless =
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        let limit = std::time::Duration::from_millis(100);
        assert!(clock.timeout(limit, store.listed(sqlx::query(endless))).await.is_err());
        // There is one connection for lists.
        let begun = clock.monotonic();
        for _ in 0..3 {
            store.list_jobs(&JobFilter::default()).await.unwrap();
        }
        assert!(clock.monotonic() - begun < std::time::Duration::from_secs(2));
    }
}
