//! Store in one SQLite database, with a write-ahead log and an fsync per commit.
//!
//! The data directory is locked, so this process is the only writer. This allows recent jobs, workers and providers to
//! be served from memory.

mod audit;
mod errors;
mod files;
mod identity;
mod jobs;
mod leases;
mod list;
mod providers;
mod queue;
mod recent;
mod row;
mod schema;
mod secrets;
mod tokens;
mod transaction;
mod walks;
mod workers;

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::{JobId, StoreId};
use hodei_core::port::{CommitError, Fence, Store, StoreError, Write};
use hodei_core::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::DataDir;
use crate::error::OpenError;
use errors::store_error;
use files::Files;
use identity::CopyPolicy;
use recent::Recent;
use schema::Pools;
use walks::Interrupt;

/// A store in the database of a data directory. Clones share it.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    id: StoreId,
    pools: Pools,
    recent: Arc<Recent>,
    queue_limit: usize,
    /// Keeps the directory locked while the store exists.
    files: Arc<Files>,
}

impl SqliteStore {
    /// Maximum number of open jobs: 10 million.
    pub const QUEUE_LIMIT: usize = 10_000_000;

    /// Opens the database of a data directory. If there is none, creates it; then `id` becomes the store's id.
    ///
    /// # Errors
    /// [`OpenError`] names the file and the problem; [`OpenError::Copied`] when it is a copy of an existing database.
    pub async fn open(dir: Arc<DataDir>, id: Uuid) -> Result<Self, OpenError> {
        Self::open_as(dir, id, CopyPolicy::Refused).await
    }

    /// Turns the database of a data directory, usually a copy of another one, into a separate store with this id.
    /// Workers of the original stay the original's; jobs that are running in the copy's view run again here.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn adopt(dir: Arc<DataDir>, id: Uuid) -> Result<StoreId, OpenError> {
        let store = Self::open_as(dir, id, CopyPolicy::Adopted).await?;
        store.close().await;
        Ok(store.id)
    }

    async fn open_as(dir: Arc<DataDir>, id: Uuid, copies: CopyPolicy) -> Result<Self, OpenError> {
        dir.lock_database()?;
        let path = dir.database();
        let pools = schema::connect(&path).await?;
        let known = schema::prepare(&path, &pools.writer, id).await?;
        let id = identity::settle(&path, &pools.writer, known, id, copies).await?;
        let loaded = async { schema::load(&mut *pools.writer.acquire().await?).await };
        let loaded = loaded.await.map_err(|error| errors::open_error(&path, error))?;
        let recent = Arc::new(Recent::new(loaded));
        let files = Files::new(dir).map_err(|source| OpenError::File { path, source })?;
        Ok(Self { id, pools, recent, queue_limit: Self::QUEUE_LIMIT, files: Arc::new(files) })
    }

    /// Closes the database and merges its log into one file. Every later call fails.
    pub async fn close(&self) {
        for pool in [&self.pools.lists, &self.pools.readers] {
            pool.close().await;
        }
        if let Ok(mut writer) = self.pools.writer.acquire().await {
            let _ = self.files.check(&mut writer).await;
            // The last connection removes the log if its pages are in the database.
            let written = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut *writer).await;
            let _ = written.inspect_err(
                |error| tracing::debug!(%error, "the write-ahead log cannot be merged; it stays"),
            );
        }
        self.pools.writer.close().await;
    }

    /// Returns the parts that a write needs.
    fn writer(&self) -> transaction::Writer<'_> {
        transaction::Writer { pool: &self.pools.writer, recent: &self.recent, files: &self.files }
    }

    /// Sets the maximum number of open jobs.
    #[must_use]
    pub fn with_queue_limit(mut self, jobs: usize) -> Self {
        self.queue_limit = jobs;
        self
    }

    async fn rows(&self, query: Query<'_>) -> Result<Vec<SqliteRow>, StoreError> {
        query.fetch_all(&self.pools.readers).await.map_err(store_error)
    }

    /// Runs a query for a client; the query is interrupted when its caller is dropped.
    async fn listed(&self, query: Query<'_>) -> Result<Vec<SqliteRow>, StoreError> {
        let mut connection = self.pools.lists.acquire().await.map_err(store_error)?;
        let interrupt = Interrupt::default();
        // Replace the handler of the previous statement, which may have been interrupted.
        let mut handle = connection.lock_handle().await.map_err(store_error)?;
        handle.set_progress_handler(INTERRUPT_CHECK_STEPS, interrupt.goes_on());
        drop(handle);
        let rows = query.fetch_all(&mut *connection).await;
        interrupt.answered();
        rows.map_err(store_error)
    }
}

/// Steps of a statement between two checks for interruption: some hundred microseconds.
const INTERRUPT_CHECK_STEPS: i32 = 20_000;

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

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

#[cfg(test)]
mod tests {
    use hodei_core::id::DaemonId;
    use hodei_core::port::{Clock, ClockExt, Epoch, JobFilter, JobRepository, LeaseStore};

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn another_programs_checkpoint_is_accepted_and_a_truncated_log_is_detected() {
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
    async fn an_abandoned_list_does_not_block_other_lists() {
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
