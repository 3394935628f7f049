//! What changes the database.
//!
//! A batch is first stored as if it fits: one statement writes each row only where it finds the version that the batch
//! expects, and counts them. When one is missing, all of it is undone, and what the database has is read under a lock
//! before the batch is decided again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use hodei_core::decision::AggregateId;
use hodei_core::id::JobId;
use hodei_core::job::TenantId;
use hodei_core::port::{COORDINATOR_LEASE, CommitError, Epoch, Fence, KEY_OUTLIVES, StoreError, Write};
use hodei_core::time::Timestamp;
use sqlx::Row;
use uuid::Uuid;

use super::super::batch::{Batch, wanted_keys};
use super::super::column;
use super::connection::{Database, Turn, is_broken, is_unique, store_error};
use super::row;
use super::rows::Rows;

/// How many jobs are open, about: counted now and then, and by this process's own commits in between.
#[derive(Debug)]
pub(super) struct OpenJobs {
    limit: usize,
    open: AtomicI64,
    /// New jobs that may come before they are counted again.
    uncounted: AtomicUsize,
}

impl OpenJobs {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, open: AtomicI64::new(0), uncounted: AtomicUsize::new(0) }
    }

    /// How many there are, counted when a tenth of the limit came since they were, or when they are many.
    async fn count(&self, turn: &mut Turn<'_>, new: usize) -> Result<usize, sqlx::Error> {
        let open = self.open.load(Ordering::Relaxed);
        let many = usize::try_from(open).unwrap_or(0) + new > self.limit / 10 * 9;
        if new > 0 && (many || self.uncounted.load(Ordering::Relaxed) < new) {
            let sql = "SELECT count(*) FROM (SELECT 1 FROM hodei.jobs LIMIT $1) open";
            let rows = turn.rows(sqlx::query(sql).bind(column::int(self.limit as u64 + 1))).await?;
            let counted: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
            self.open.store(counted, Ordering::Relaxed);
            self.uncounted.store(self.limit / 10, Ordering::Relaxed);
        }
        Ok(usize::try_from(self.open.load(Ordering::Relaxed)).unwrap_or(0))
    }

    fn changed(&self, before: usize, after: usize, new: usize) {
        self.open.fetch_add(after as i64 - before as i64, Ordering::Relaxed);
        let _ = self
            .uncounted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(new)));
    }
}

/// What one try at a transaction came to.
enum Tried {
    Stored(Outcomes),
    /// The database has something else than was expected.
    Contested,
    /// Nobody knows: the connection broke when it was to commit.
    Unknown(Ended, Outcomes),
}

/// A transaction that committed or not.
struct Ended {
    tx: String,
    /// An event that is stored if it did.
    proof: Option<Uuid>,
}

type Outcomes = Vec<Result<(), CommitError>>;

/// Tries before a batch is given back.
const TRIES: u32 = 12;
/// Between two looks at a transaction whose end is unknown.
const LOOK: Duration = Duration::from_millis(100);
/// Looks before it is given up.
const LOOKS: u32 = 100;

/// Stores a batch: see the port.
pub(super) async fn commit(
    database: &Database,
    open_jobs: &OpenJobs,
    fence: Fence,
    writes: &[Write],
) -> Result<Outcomes, StoreError> {
    let mut look_first = false;
    for _ in 0..TRIES {
        match attempt(database, open_jobs, fence, writes, look_first).await {
            Ok(Tried::Stored(outcomes)) => return Ok(outcomes),
            Ok(Tried::Contested) => look_first = true,
            Ok(Tried::Unknown(ended, outcomes)) => {
                if was_committed(database, &ended).await? {
                    return Ok(outcomes);
                }
            }
            // Nothing was to commit yet, so another connection may do it.
            Err(Failed::Sql(error)) if is_broken(&error) => {}
            Err(Failed::Sql(error)) if is_unique(&error) => look_first = true,
            Err(Failed::Sql(error)) => return Err(store_error(error)),
            Err(Failed::Store(error)) => return Err(error),
        }
    }
    let why = "others write the same, or its connections break".to_owned();
    Err(StoreError::Unavailable { retry_after: Duration::from_secs(1), why })
}

pub(super) enum Failed {
    Sql(sqlx::Error),
    Store(StoreError),
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

async fn attempt(
    database: &Database,
    open_jobs: &OpenJobs,
    fence: Fence,
    writes: &[Write],
    look_first: bool,
) -> Result<Tried, Failed> {
    let mut turn = database.turn().await?;
    turn.run("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
    check(&mut turn, fence).await?;
    let new = writes.iter().filter(|write| write.expect.version().is_none()).count();
    let open = open_jobs.count(&mut turn, new).await?;
    let (versions, keys) =
        if look_first { look(&mut turn, writes).await? } else { (hoped(writes), BTreeMap::new()) };
    let mut batch = Batch::new(versions, keys, open, open_jobs.limit);
    let outcomes: Outcomes = writes.iter().map(|write| batch.take(write)).collect();
    let refused =
        |outcome: &Result<(), CommitError>| !matches!(outcome, Ok(()) | Err(CommitError::Full { .. }));
    if !look_first && outcomes.iter().any(refused) {
        return Ok(Tried::Contested);
    }
    let rows = Rows::of(&batch)?;
    if rows.is_empty() {
        turn.run("COMMIT").await?;
        turn.end();
        return Ok(Tried::Stored(outcomes));
    }
    let (tx, stored) = rows.store(&mut turn).await?;
    if stored != rows.expected() {
        return Ok(Tried::Contested);
    }
    match turn.run("COMMIT").await {
        Ok(()) => {}
        Err(error) if is_broken(&error) => {
            let proof = batch.events.first().map(|event| event.id.as_uuid());
            return Ok(Tried::Unknown(Ended { tx, proof }, outcomes));
        }
        Err(error) => return Err(error.into()),
    }
    turn.end();
    open_jobs.changed(open, batch.open_jobs, new);
    Ok(Tried::Stored(outcomes))
}

/// Keeps the epoch of a plan as it is until the end of the transaction.
async fn check(turn: &mut Turn<'_>, fence: Fence) -> Result<(), Failed> {
    let Fence::Plan(epoch) = fence else { return Ok(()) };
    let sql = "SELECT epoch FROM hodei.leases WHERE name = $1 FOR SHARE";
    let rows = turn.rows(sqlx::query(sql).bind(COORDINATOR_LEASE)).await?;
    let current: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
    let current = Epoch(u32::try_from(current).unwrap_or(u32::MAX));
    if current != epoch && !cfg!(hodei_break = "epoch") {
        return Err(StoreError::StaleEpoch { current }.into());
    }
    Ok(())
}

type Versions = BTreeMap<AggregateId, u64>;
type Keys = BTreeMap<(TenantId, String), JobId>;

/// What the database has if nobody else wrote: what the first write of each expects.
fn hoped(writes: &[Write]) -> Versions {
    let mut first = BTreeMap::new();
    for write in writes {
        first.entry(write.next.id()).or_insert(write.expect.version());
    }
    first.into_iter().filter_map(|(id, version)| Some((id, version?))).collect()
}

/// What the database has, kept as it is until the end of the transaction. Rows are locked in one order by everybody.
pub(super) async fn look(turn: &mut Turn<'_>, writes: &[Write]) -> Result<(Versions, Keys), Failed> {
    let mut ids = [const { Vec::<Uuid>::new() }; 3];
    for write in writes {
        let (kind, id) = column::aggregate_key(write.next.id());
        ids[kind as usize].push(id);
    }
    let mut versions = BTreeMap::new();
    for ((kind, sql), ids) in (0..).zip(VERSIONS).zip(&ids) {
        if ids.is_empty() {
            continue;
        }
        for found in turn.rows(sqlx::query(sql).bind(ids)).await? {
            let version: i64 = found.try_get(1)?;
            versions.insert(column::aggregate(kind, found.try_get(0)?)?, version.unsigned_abs());
        }
    }
    // Nothing locks a job that ended, and it stays as it is.
    let sql = "SELECT id, version FROM hodei.history WHERE id = ANY($1)";
    for found in turn.rows(sqlx::query(sql).bind(&ids[0])).await? {
        let version: i64 = found.try_get(1)?;
        versions.insert(column::aggregate(0, found.try_get(0)?)?, version.unsigned_abs());
    }
    let (tenants, wanted): (Vec<&str>, Vec<&str>) =
        wanted_keys(writes).map(|(tenant, key)| (tenant.as_str(), key)).unzip();
    let mut keys = BTreeMap::new();
    if !wanted.is_empty() {
        let sql = "SELECT tenant, job_key, job FROM hodei.job_keys WHERE (tenant, job_key) IN \
                   (SELECT * FROM unnest($1::text[], $2::text[]))";
        for found in turn.rows(sqlx::query(sql).bind(tenants).bind(wanted)).await? {
            let tenant = TenantId::new(row::get::<&str>(&found, 0)?);
            keys.insert((tenant, row::get(&found, 1)?), JobId::from_uuid(row::get(&found, 2)?));
        }
    }
    Ok((versions, keys))
}

/// By the number of their kind: see [`column::aggregate_key`].
const VERSIONS: [&str; 3] = [
    "SELECT id, version FROM hodei.jobs WHERE id = ANY($1) ORDER BY id FOR UPDATE",
    "SELECT id, version FROM hodei.workers WHERE id = ANY($1) ORDER BY id FOR UPDATE",
    "SELECT id, version FROM hodei.providers WHERE id = ANY($1) ORDER BY id FOR UPDATE",
];

/// Whether a transaction was committed whose connection broke; waits while the database still works on it.
///
/// A database that crashed forgets the ids of what it had not written, and gives them away again: an id that it does
/// not know yet is of a transaction that is no more, and one that was committed may be of another.
async fn was_committed(database: &Database, ended: &Ended) -> Result<bool, StoreError> {
    for _ in 0..LOOKS {
        match status_of(database, &ended.tx).await {
            Ok(Some(status)) if status == "in progress" => {}
            Ok(Some(status)) => return Ok(status == "committed" && is_stored(database, ended).await?),
            Ok(None) => break,
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(error),
        }
        database.sleep(LOOK).await;
    }
    let why = format!("whether transaction {} was stored is not known", ended.tx);
    Err(StoreError::Other(why.into()))
}

/// What the database says of a transaction; `None` when it is too long ago.
async fn status_of(database: &Database, tx: &str) -> Result<Option<String>, StoreError> {
    // An id of the future is an error to `pg_xact_status`: one that is not before the next that is given away.
    let sql = "SELECT CASE WHEN $1::text::xid8 >= pg_current_xact_id() THEN 'aborted' \
               ELSE pg_xact_status($1::text::xid8) END";
    let rows = database.read(|| sqlx::query(sql).bind(tx)).await?;
    Ok(rows.first().map(|found| row::get(found, 0)).transpose()?.flatten())
}

async fn is_stored(database: &Database, ended: &Ended) -> Result<bool, StoreError> {
    let Some(event) = ended.proof else { return Ok(true) };
    let sql = "SELECT 1 FROM hodei.events WHERE tx = $1::text::xid8 AND id = $2";
    Ok(!database.read(|| sqlx::query(sql).bind(&ended.tx).bind(event)).await?.is_empty())
}

/// Forgets what ended: see the port. Repeated, it forgets nothing more.
pub(super) async fn forget(database: &Database, jobs: &[JobId], before: Timestamp) -> Result<(), StoreError> {
    let jobs: Vec<Uuid> = jobs.iter().map(hodei_core::id::JobId::as_uuid).collect();
    let query = || {
        let query = sqlx::query(FORGET).bind(&jobs).bind(before.as_micros());
        query.bind((before - KEY_OUTLIVES).as_micros())
    };
    database.read(query).await.map(drop)
}

/// $1 jobs, $2 before when a worker ended, $3 before when the job of a key ended. Workers are as bounded as jobs: the
/// next batch finds the others.
const FORGET: &str = "
    WITH gone AS (DELETE FROM hodei.history WHERE id = ANY($1) RETURNING id, ended_at),
    kept AS (UPDATE hodei.job_keys k SET ended_at = gone.ended_at FROM gone WHERE k.job = gone.id),
    specs AS (DELETE FROM hodei.specs USING gone WHERE job = gone.id),
    told AS (DELETE FROM hodei.events USING gone WHERE kind = 0 AND aggregate = gone.id),
    old AS (DELETE FROM hodei.workers WHERE id IN
        (SELECT id FROM hodei.workers WHERE ended_at < $2 ORDER BY ended_at LIMIT 500) RETURNING id),
    seen AS (DELETE FROM hodei.events USING old WHERE kind = 1 AND aggregate = old.id)
    DELETE FROM hodei.job_keys WHERE ended_at < $3";
