//! Transactions that change the database.
//!
//! A batch is first stored optimistically: one statement writes each row only where it finds the expected version,
//! counts the rows, and fails if one is missing, which undoes all of them. After a failure the current state is read
//! under a lock, and the batch is decided again.
//!
//! When a connection breaks, the outcome of its transaction is unknown. The batch is then retried in the same way: its
//! locks and inserts wait for a transaction that is still in flight, and the events tell what was stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use hodei_core::decision::AggregateId;
use hodei_core::event::Envelope;
use hodei_core::id::JobId;
use hodei_core::job::TenantId;
use hodei_core::port::{COORDINATOR_LEASE, CommitError, Epoch, Fence, KEY_OUTLIVES, StoreError, Write};
use hodei_core::time::Timestamp;
use sqlx::Row;
use uuid::Uuid;

use super::connection::{Database, Turn, is_broken, is_contested, store_error};
use super::row;
use super::rows::Rows;
use crate::storage::shared::batch::{Batch, wanted_keys};
use crate::storage::shared::column;

/// Approximate number of open jobs: counted from time to time, and updated by this process's own commits in between.
#[derive(Debug)]
pub(super) struct OpenJobs {
    limit: usize,
    open: AtomicI64,
    /// Number of new jobs before the next count.
    uncounted: AtomicUsize,
}

impl OpenJobs {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, open: AtomicI64::new(0), uncounted: AtomicUsize::new(0) }
    }

    /// Returns the number of open jobs. Counts again once the new jobs reach a tenth of the limit, and on every call
    /// with new jobs while the limit is near.
    async fn count(&self, database: &Database, new: usize) -> Result<usize, StoreError> {
        let open = self.open.load(Ordering::Relaxed);
        let many = usize::try_from(open).unwrap_or(0) + new > self.limit / 10 * 9;
        if new > 0 && (many || self.uncounted.load(Ordering::Relaxed) < new) {
            let sql = "SELECT count(*) FROM (SELECT 1 FROM hodei.jobs LIMIT $1) open";
            let query = || sqlx::query(sql).bind(column::int(self.limit as u64 + 1));
            let counted: i64 =
                database.read(query).await?.first().map_or(Ok(0), |found| row::get(found, 0))?;
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

type Outcomes = Vec<Result<(), CommitError>>;

/// Attempts before a batch is returned to the caller.
const MAX_ATTEMPTS: u32 = 12;
/// Delay between two attempts at a batch with unknown outcome.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Time that a batch with unknown outcome is retried.
const UNKNOWN_OUTCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// Stores a batch: see the port.
pub(super) async fn commit(
    database: &Database,
    open_jobs: &OpenJobs,
    fence: Fence,
    writes: &[Write],
) -> Result<Outcomes, StoreError> {
    let (mut look_first, mut in_doubt, mut tries) = (false, false, 0);
    let since = database.monotonic();
    loop {
        let tried = if look_first {
            under_lock(database, open_jobs, fence, writes, in_doubt).await
        } else {
            at_once(database, open_jobs, fence, writes).await
        };
        (look_first, tries) = (true, tries + 1);
        if let Err(Failed::Sql(error)) = &tried {
            database.note(error);
        }
        let (is_quick, error) = match tried {
            Ok(outcomes) => return Ok(outcomes),
            Err(Failed::Sql(error)) if is_broken(&error) => {
                in_doubt = true;
                (true, store_error(error))
            }
            Err(Failed::Sql(error)) if is_contested(&error) => (true, contested()),
            Err(Failed::Contested) => (true, contested()),
            Err(Failed::Sql(error)) => (false, store_error(error)),
            Err(Failed::Store(error)) => (false, error),
        };
        // Another connection may work, and other writers may finish. An unknown outcome justifies a longer wait.
        let goes_on = if in_doubt {
            database.monotonic().saturating_sub(since) < UNKNOWN_OUTCOME_TIMEOUT
        } else {
            is_quick && tries < MAX_ATTEMPTS
        };
        if !goes_on || !error.is_retryable() {
            return Err(error);
        }
        if !is_quick || tries > MAX_ATTEMPTS {
            database.sleep(RETRY_INTERVAL).await;
        }
    }
}

fn contested() -> StoreError {
    let why = "other writers keep changing the same rows".to_owned();
    StoreError::Unavailable { retry_after: Duration::from_secs(1), why }
}

pub(super) enum Failed {
    Sql(sqlx::Error),
    Store(StoreError),
    /// The database does not have the expected state.
    Contested,
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

/// Stores a batch with one statement, which is undone when the database does not have the expected state.
async fn at_once(
    database: &Database,
    open_jobs: &OpenJobs,
    fence: Fence,
    writes: &[Write],
) -> Result<Outcomes, Failed> {
    let new = new_jobs(writes);
    let open = open_jobs.count(database, new).await?;
    let mut batch = Batch::new(hoped(writes), BTreeMap::new(), open, open_jobs.limit);
    let outcomes: Outcomes = writes.iter().map(|write| batch.take(write)).collect();
    let refused =
        |outcome: &Result<(), CommitError>| !matches!(outcome, Ok(()) | Err(CommitError::Full { .. }));
    if outcomes.iter().any(refused) {
        return Err(Failed::Contested);
    }
    let rows = Rows::of(&batch)?;
    if !rows.is_empty() {
        let mut turn = database.turn().await?;
        rows.store_alone(&mut turn, fence).await?;
        turn.end();
        open_jobs.changed(open, batch.open_jobs, new);
    }
    Ok(outcomes)
}

/// Stores the part of a batch that fits the state of the database. If an earlier attempt may have been stored, its
/// stored writes count as done.
async fn under_lock(
    database: &Database,
    open_jobs: &OpenJobs,
    fence: Fence,
    writes: &[Write],
    in_doubt: bool,
) -> Result<Outcomes, Failed> {
    let new = new_jobs(writes);
    let open = open_jobs.count(database, new).await?;
    let mut turn = database.turn().await?;
    turn.run("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
    check(&mut turn, fence).await?;
    let (versions, keys) = look(&mut turn, writes).await?;
    // Check after `look`, which waits for a transaction in flight. A transaction that is still inserting is detected by
    // its conflicting rows.
    let done = if in_doubt { stored(&mut turn, writes).await? } else { BTreeSet::new() };
    let is_done =
        |write: &Write| write.events.first().is_some_and(|event| done.contains(&event.id.as_uuid()));
    let mut batch = Batch::new(versions, keys, open, open_jobs.limit);
    let outcomes: Outcomes =
        writes.iter().map(|write| if is_done(write) { Ok(()) } else { batch.take(write) }).collect();
    let rows = Rows::of(&batch)?;
    if !rows.is_empty() && rows.store(&mut turn).await? != rows.expected() {
        return Err(Failed::Contested);
    }
    turn.run("COMMIT").await?;
    turn.end();
    open_jobs.changed(open, batch.open_jobs, new);
    Ok(outcomes)
}

fn new_jobs(writes: &[Write]) -> usize {
    writes.iter().filter(|write| write.expect.version().is_none()).count()
}

/// Returns the first events of the writes that are stored.
async fn stored(turn: &mut Turn, writes: &[Write]) -> Result<BTreeSet<Uuid>, Failed> {
    let first = || writes.iter().filter_map(|write| write.events.first());
    let aggregates: Vec<Uuid> = first().map(|event| column::aggregate_key(event.aggregate).1).collect();
    let versions: Vec<i64> = first().map(|event| column::int(event.version)).collect();
    let sql = "SELECT e.id FROM unnest($1::uuid[], $2::bigint[]) n(aggregate, version) \
               JOIN hodei.events e ON e.aggregate = n.aggregate AND e.version = n.version";
    let found = turn.rows(sqlx::query(sql).bind(aggregates).bind(versions)).await?;
    Ok(found.iter().map(|event| row::get(event, 0)).collect::<Result<_, _>>()?)
}

/// Checks the epoch of a plan and locks it until the end of the transaction.
async fn check(turn: &mut Turn, fence: Fence) -> Result<(), Failed> {
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

/// Returns the versions in the database if there is no other writer: those that the first write of each aggregate
/// expects.
fn hoped(writes: &[Write]) -> Versions {
    let mut first = BTreeMap::new();
    for write in writes {
        first.entry(write.next.id()).or_insert(write.expect.version());
    }
    first.into_iter().filter_map(|(id, version)| Some((id, version?))).collect()
}

/// Reads the state of the database and locks it until the end of the transaction. All writers lock rows in the same
/// order.
pub(super) async fn look(turn: &mut Turn, writes: &[Write]) -> Result<(Versions, Keys), Failed> {
    let mut ids = [const { Vec::<Uuid>::new() }; column::KIND_COUNT];
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
    // An ended job needs no lock, because it does not change.
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

/// Queries by number of the aggregate's kind: see [`column::aggregate_key`].
const VERSIONS: [&str; column::KIND_COUNT] = [
    "SELECT id, version FROM hodei.jobs WHERE id = ANY($1) ORDER BY id FOR UPDATE",
    "SELECT id, version FROM hodei.workers WHERE id = ANY($1) ORDER BY id FOR UPDATE",
    "SELECT id, version FROM hodei.providers WHERE id = ANY($1) ORDER BY id FOR UPDATE",
    "SELECT id, version FROM hodei.secrets WHERE id = ANY($1) ORDER BY id FOR UPDATE",
    "SELECT id, version FROM hodei.tokens WHERE id = ANY($1) ORDER BY id FOR UPDATE",
];

/// Stores events that belong to no transition: see the port.
pub(super) async fn record(database: &Database, events: &[Envelope]) -> Result<(), StoreError> {
    let rows = Rows::of_events(events)?;
    if rows.is_empty() {
        return Ok(());
    }
    let mut turn = database.turn().await?;
    rows.store_alone(&mut turn, Fence::None)
        .await
        .inspect_err(|error| database.note(error))
        .map_err(store_error)?;
    turn.end();
    Ok(())
}

/// Forgets ended aggregates: see the port. Idempotent.
pub(super) async fn forget(database: &Database, jobs: &[JobId], before: Timestamp) -> Result<(), StoreError> {
    let jobs: Vec<Uuid> = jobs.iter().map(hodei_core::id::JobId::as_uuid).collect();
    let query = || {
        let query = sqlx::query(FORGET).bind(&jobs).bind(before.as_micros());
        query.bind((before - KEY_OUTLIVES).as_micros())
    };
    database.read(query).await.map(drop)
}

/// $1 jobs, $2 latest end of workers and tokens, $3 latest end of the jobs of keys. Workers, tokens and events of the
/// platform are deleted in batches like jobs: the next call finds the rest.
const FORGET: &str = "
    WITH gone AS (DELETE FROM hodei.history WHERE id = ANY($1) RETURNING id, tenant, status, ended_at),
    listed AS (DELETE FROM hodei.ended_labels e USING gone JOIN hodei.specs s ON s.job = gone.id,
        jsonb_each_text(s.labels) l WHERE s.labels IS NOT NULL AND e.tenant = gone.tenant AND e.label = l.key
        AND e.value = l.value AND e.status = gone.status AND e.job = gone.id),
    kept AS (UPDATE hodei.job_keys k SET ended_at = gone.ended_at FROM gone WHERE k.job = gone.id),
    specs AS (DELETE FROM hodei.specs USING gone WHERE job = gone.id),
    told AS (DELETE FROM hodei.events USING gone WHERE kind = 0 AND aggregate = gone.id),
    old AS (DELETE FROM hodei.workers WHERE id IN
        (SELECT id FROM hodei.workers WHERE ended_at < $2 ORDER BY ended_at LIMIT 500) RETURNING id),
    seen AS (DELETE FROM hodei.events USING old WHERE kind = 1 AND aggregate = old.id),
    ended AS (DELETE FROM hodei.tokens WHERE id IN (SELECT id FROM hodei.tokens WHERE
        least((record::jsonb ->> 'revoked_at')::bigint, (record::jsonb ->> 'expires_at')::bigint) < $2 LIMIT 500)
        RETURNING id),
    made AS (DELETE FROM hodei.events USING ended WHERE kind = 4 AND aggregate = ended.id),
    noted AS (DELETE FROM hodei.events WHERE ctid = ANY(ARRAY(SELECT ctid FROM hodei.events
        WHERE aggregate = (SELECT store_id FROM hodei.store) AND kind = 5 AND at < $2 LIMIT 20000)))
    DELETE FROM hodei.job_keys WHERE ended_at < $3";
