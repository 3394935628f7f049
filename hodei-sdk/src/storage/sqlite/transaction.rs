//! What changes the database: one load, one decision in memory, one store.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use hodei_core::decision::{Aggregate, AggregateId, Expect};
use hodei_core::event::Envelope;
use hodei_core::id::JobId;
use hodei_core::job::{Job, TenantId};
use hodei_core::port::{COORDINATOR_LEASE, CommitError, Epoch, Fence, KEY_OUTLIVES, StoreError, Write};
use hodei_core::time::Timestamp;
use hodei_core::worker::WorkerState;
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection, SqlitePool};
use uuid::Uuid;

use super::recent::Recent;
use super::schema::store_error;
use super::{Query, row};

/// Stores a batch: see the port.
pub(super) async fn commit(
    writer: &SqlitePool,
    recent: &Recent,
    queue_limit: usize,
    fence: Fence,
    writes: &[Write],
) -> Result<Vec<Result<(), CommitError>>, StoreError> {
    // The connection is held until `recent` has what was stored, so commits reach both in one order.
    let mut connection = writer.acquire().await.map_err(store_error)?;
    let stored = async {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(store_error)?;
        check_fence(&mut transaction, fence).await?;
        let mut batch = Batch::load(&mut transaction, writes, recent.open_jobs(), queue_limit).await?;
        let outcomes = writes.iter().map(|write| batch.take(write)).collect();
        batch.store(&mut transaction).await?;
        transaction.commit().await.map_err(store_error)?;
        Ok((batch, outcomes))
    };
    match stored.await {
        Ok((batch, outcomes)) => {
            recent.stored(batch.next.values().map(|(next, _)| *next), batch.open_jobs);
            Ok(outcomes)
        }
        Err(error) => {
            // SQLite may have rolled back by itself or not: a new connection knows where it stands.
            connection.close_on_drop();
            Err(error)
        }
    }
}

/// Forgets what ended: see the port.
pub(super) async fn forget(
    writer: &SqlitePool,
    recent: &Recent,
    jobs: &[JobId],
    before: Timestamp,
) -> Result<(), StoreError> {
    let mut connection = writer.acquire().await.map_err(store_error)?;
    let forgotten = async {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let ids = row::hex_list(jobs.iter().map(|id| id.as_uuid()));
        for sql in [
            "UPDATE job_keys SET ended_at = (SELECT ended_at FROM jobs WHERE id = job)
             WHERE job IN (SELECT unhex(value) FROM json_each(?))",
            "DELETE FROM specs WHERE job IN (SELECT id FROM jobs WHERE ended_at IS NOT NULL
             AND id IN (SELECT unhex(value) FROM json_each(?)))",
            "DELETE FROM events WHERE kind = 0 AND aggregate IN (SELECT id FROM jobs WHERE ended_at IS NOT NULL
             AND id IN (SELECT unhex(value) FROM json_each(?)))",
            "DELETE FROM jobs WHERE ended_at IS NOT NULL AND id IN (SELECT unhex(value) FROM json_each(?))",
        ] {
            sqlx::query(sql).bind(&ids).execute(&mut *transaction).await?;
        }
        // Bounded, as the number of jobs is: a round that comes back finds the next.
        const WORKERS: i64 = 100;
        for sql in [
            "DELETE FROM events WHERE kind = 1 AND aggregate IN
             (SELECT id FROM workers WHERE ended_at < ? ORDER BY ended_at LIMIT ?)",
            "DELETE FROM workers WHERE id IN
             (SELECT id FROM workers WHERE ended_at < ? ORDER BY ended_at LIMIT ?)",
        ] {
            sqlx::query(sql).bind(before.as_micros()).bind(WORKERS).execute(&mut *transaction).await?;
        }
        let keys = before.as_micros().saturating_sub(KEY_OUTLIVES.as_micros() as i64);
        sqlx::query("DELETE FROM job_keys WHERE ended_at < ?").bind(keys).execute(&mut *transaction).await?;
        transaction.commit().await
    };
    match forgotten.await {
        Ok(()) => {
            recent.forget(jobs);
            Ok(())
        }
        Err(error) => {
            connection.close_on_drop();
            Err(store_error(error))
        }
    }
}

async fn check_fence(connection: &mut SqliteConnection, fence: Fence) -> Result<(), StoreError> {
    let Fence::Plan(epoch) = fence else { return Ok(()) };
    let query = sqlx::query("SELECT epoch FROM leases WHERE name = ?").bind(COORDINATOR_LEASE);
    let found = query.fetch_optional(connection).await.map_err(store_error)?;
    let current: i64 = found.map_or(Ok(0), |row| row.try_get(0)).map_err(store_error)?;
    let current = Epoch(u32::try_from(current).unwrap_or(u32::MAX));
    if current == epoch { Ok(()) } else { Err(StoreError::StaleEpoch { current }) }
}

/// A batch as it is decided: what the database has, and what will replace it.
struct Batch<'a> {
    versions: BTreeMap<AggregateId, u64>,
    keys: BTreeMap<(TenantId, String), JobId>,
    open_jobs: usize,
    queue_limit: usize,
    /// The last state of each aggregate, and whether it is a new one.
    next: BTreeMap<AggregateId, (&'a Aggregate, bool)>,
    new_keys: Vec<(&'a TenantId, &'a str, JobId)>,
    events: Vec<&'a Envelope>,
}

impl<'a> Batch<'a> {
    async fn load(
        connection: &mut SqliteConnection,
        writes: &'a [Write],
        open_jobs: usize,
        queue_limit: usize,
    ) -> Result<Self, StoreError> {
        let mut versions = BTreeMap::new();
        for (kind, sql) in (0..).zip(VERSIONS) {
            let ids: Vec<Uuid> = writes
                .iter()
                .map(|write| row::aggregate_key(write.next.id()))
                .filter(|(of, _)| *of == kind)
                .map(|(_, id)| id)
                .collect();
            if ids.is_empty() {
                continue;
            }
            let query = sqlx::query(sql).bind(row::hex_list(ids.into_iter()));
            for found in query.fetch_all(&mut *connection).await.map_err(store_error)? {
                let version: i64 = found.try_get(1).map_err(store_error)?;
                let id = row::aggregate(kind, row::uuid(&found, 0)?);
                versions.extend(id.map(|id| (id, version.unsigned_abs())));
            }
        }
        let mut keys = BTreeMap::new();
        for (tenant, key) in writes.iter().filter_map(|write| new_job(write)).filter_map(key_of) {
            let query = sqlx::query("SELECT job FROM job_keys WHERE tenant = ? AND job_key = ?");
            let query = query.bind(tenant.as_str()).bind(key);
            if let Some(found) = query.fetch_optional(&mut *connection).await.map_err(store_error)? {
                keys.insert((tenant.clone(), key.to_owned()), JobId::from_uuid(row::uuid(&found, 0)?));
            }
        }
        let (next, new_keys, events) = (BTreeMap::new(), Vec::new(), Vec::new());
        Ok(Self { versions, keys, open_jobs, queue_limit, next, new_keys, events })
    }

    /// Takes one item in, or refuses it without a trace.
    fn take(&mut self, write: &'a Write) -> Result<(), CommitError> {
        let id = write.next.id();
        let actual = self.versions.get(&id).copied();
        let wanted = match write.expect {
            Expect::Absent => None,
            Expect::Version(version) => Some(version),
        };
        if actual != wanted && !cfg!(hodei_break = "cas") {
            return Err(CommitError::Conflict { actual });
        }
        if let Aggregate::Job(job) = &write.next {
            self.take_job(job, actual.is_none())?;
        }
        self.versions.insert(id, write.next.version());
        match self.next.entry(id) {
            Entry::Occupied(mut known) => known.get_mut().0 = &write.next,
            Entry::Vacant(new) => {
                new.insert((&write.next, actual.is_none()));
            }
        }
        if !cfg!(hodei_break = "outbox") {
            self.events.extend(&write.events);
        }
        Ok(())
    }

    fn take_job(&mut self, job: &'a Job, is_new: bool) -> Result<(), CommitError> {
        if is_new {
            if self.open_jobs >= self.queue_limit {
                return Err(CommitError::Full { limit: self.queue_limit });
            }
            if let Some((tenant, key)) = key_of(job) {
                match self.keys.entry((tenant.clone(), key.to_owned())) {
                    Entry::Occupied(known) => {
                        return Err(CommitError::Duplicate { existing: *known.get() });
                    }
                    Entry::Vacant(free) => {
                        free.insert(job.id());
                        self.new_keys.push((tenant, key, job.id()));
                    }
                }
            }
        }
        match (is_new, job.is_terminal()) {
            (true, false) => self.open_jobs += 1,
            // Terminal is final, so what it replaces was open.
            (false, true) => self.open_jobs = self.open_jobs.saturating_sub(1),
            _ => {}
        }
        Ok(())
    }

    async fn store(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let (mut specs, mut jobs, mut workers, mut providers) = (vec![], vec![], vec![], vec![]);
        for (next, is_new) in self.next.values() {
            match next {
                Aggregate::Job(job) => {
                    if *is_new {
                        specs.push((job.id(), row::json(&**job.spec())?));
                    }
                    jobs.push((&**job, row::json(&job.record())?));
                }
                Aggregate::Worker(worker) => workers.push((&**worker, row::json(&**worker)?)),
                Aggregate::Provider(provider) => providers.push((&**provider, row::json(&**provider)?)),
            }
        }
        insert(connection, INTO_SPECS, &specs, |query, (id, spec)| {
            Ok(query.bind(row::blob(id.as_uuid())).bind(spec))
        })
        .await?;
        insert(connection, INTO_JOBS, &jobs, |query, (job, record)| {
            let worker = job.assignment().map(|assignment| row::blob(assignment.worker.as_uuid()));
            Ok(query
                .bind(row::blob(job.id().as_uuid()))
                .bind(job.tenant().as_str())
                .bind(row::int(job.version()))
                .bind(row::status(job.status()))
                .bind(worker)
                .bind(job.ending().map(|ending| ending.at.as_micros()))
                .bind(record))
        })
        .await?;
        insert(connection, INTO_KEYS, &self.new_keys, |query, (tenant, key, job)| {
            Ok(query.bind(tenant.as_str()).bind(*key).bind(row::blob(job.as_uuid())))
        })
        .await?;
        insert(connection, INTO_WORKERS, &workers, |query, (worker, record)| {
            let ended_at = match worker.state() {
                WorkerState::Terminated { at, .. } => Some(at.as_micros()),
                _ => None,
            };
            let query = query.bind(row::blob(worker.id().as_uuid())).bind(row::int(worker.version()));
            Ok(query.bind(ended_at).bind(record))
        })
        .await?;
        insert(connection, INTO_PROVIDERS, &providers, |query, (provider, record)| {
            let query = query.bind(row::blob(provider.id().as_uuid())).bind(row::int(provider.version()));
            Ok(query.bind(record))
        })
        .await?;
        insert(connection, INTO_EVENTS, &self.events, |query, envelope| {
            let (kind, aggregate) = row::aggregate_key(envelope.aggregate);
            Ok(query
                .bind(row::blob(envelope.id.as_uuid()))
                .bind(kind)
                .bind(row::blob(aggregate))
                .bind(row::int(envelope.version))
                .bind(row::blob(envelope.correlation.as_uuid()))
                .bind(envelope.causation.map(|id| row::blob(id.as_uuid())))
                .bind(row::actor(envelope.actor))
                .bind(envelope.at.as_micros())
                .bind(i64::from(envelope.schema))
                .bind(row::json(&envelope.event)?))
        })
        .await
    }
}

/// By the number of their kind: see [`row::aggregate_key`].
const VERSIONS: [&str; 3] = [
    "SELECT id, version FROM jobs WHERE id IN (SELECT unhex(value) FROM json_each(?))",
    "SELECT id, version FROM workers WHERE id IN (SELECT unhex(value) FROM json_each(?))",
    "SELECT id, version FROM providers WHERE id IN (SELECT unhex(value) FROM json_each(?))",
];

/// An insert of many rows: head, one row, tail.
type Into = (&'static str, &'static str, &'static str);

const INTO_SPECS: Into = ("INSERT INTO specs (job, spec) VALUES ", "(?,?)", "");
const INTO_JOBS: Into = (
    "INSERT INTO jobs (id, tenant, version, status, worker, ended_at, record) VALUES ",
    "(?,?,?,?,?,?,?)",
    " ON CONFLICT (id) DO UPDATE SET version = excluded.version, status = excluded.status,
      worker = excluded.worker, ended_at = excluded.ended_at, record = excluded.record",
);
const INTO_KEYS: Into = ("INSERT INTO job_keys (tenant, job_key, job) VALUES ", "(?,?,?)", "");
const INTO_WORKERS: Into = (
    "INSERT INTO workers (id, version, ended_at, record) VALUES ",
    "(?,?,?,?)",
    " ON CONFLICT (id) DO UPDATE SET version = excluded.version, ended_at = excluded.ended_at,
      record = excluded.record",
);
const INTO_PROVIDERS: Into = (
    "INSERT INTO providers (id, version, record) VALUES ",
    "(?,?,?)",
    " ON CONFLICT (id) DO UPDATE SET version = excluded.version, record = excluded.record",
);
const INTO_EVENTS: Into = (
    "INSERT INTO events (id, kind, aggregate, version, correlation, causation, actor, at, schema, event) VALUES ",
    "(?,?,?,?,?,?,?,?,?,?)",
    "",
);

/// Rows a statement. Few lengths, so that each statement is prepared once and then found again.
const LENGTHS: [usize; 5] = [256, 64, 16, 4, 1];

async fn insert<R>(
    connection: &mut SqliteConnection,
    (head, one, tail): Into,
    mut rows: &[R],
    bind: impl for<'q> Fn(Query<'q>, &'q R) -> Result<Query<'q>, StoreError>,
) -> Result<(), StoreError> {
    for length in LENGTHS {
        while rows.len() >= length {
            let (now, later) = rows.split_at(length);
            let mut sql = String::with_capacity(head.len() + (one.len() + 1) * length + tail.len());
            sql.push_str(head);
            for number in 0..length {
                sql.push_str(if number > 0 { "," } else { "" });
                sql.push_str(one);
            }
            sql.push_str(tail);
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for row in now {
                query = bind(query, row)?;
            }
            query.execute(&mut *connection).await.map_err(store_error)?;
            rows = later;
        }
    }
    Ok(())
}

fn new_job(write: &Write) -> Option<&Job> {
    match &write.next {
        Aggregate::Job(job) if write.expect == Expect::Absent => Some(job),
        _ => None,
    }
}

fn key_of(job: &Job) -> Option<(&TenantId, &str)> {
    Some((job.tenant(), job.spec().idempotency_key()?))
}
