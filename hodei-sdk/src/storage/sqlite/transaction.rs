//! Transactions that change the database. The affected state is cached or read, the batch is decided in memory, and one
//! call stores all of it. The connection is held throughout and there is no other writer, so the state does not change
//! in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use hodei_core::decision::{Aggregate, AggregateId};
use hodei_core::event::Envelope;
use hodei_core::id::{DaemonId, JobId};
use hodei_core::port::{CommitError, Epoch, Fence, KEY_OUTLIVES, StoreError, Write};
use hodei_core::time::Timestamp;
use hodei_core::worker::WorkerState;
use serde::Serialize;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Row, Sqlite, SqliteConnection, SqlitePool};

use super::errors::store_error;
use super::files::Files;
use super::recent::Recent;
use super::row::{self, Hex};
use super::schema::{self};
use crate::storage::shared::batch::{Batch, wanted_keys};
use crate::storage::shared::column;
use crate::storage::shared::pages::MAX_LISTED_SPEC_BYTES;

/// The writing pool, the cache of written state, and the watched files.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    pub(super) pool: &'a SqlitePool,
    pub(super) recent: &'a Recent,
    pub(super) files: &'a Files,
}

/// The writing connection, held by one caller.
struct Turn<'a> {
    connection: PoolConnection<Sqlite>,
    recent: &'a Recent,
    files: &'a Files,
    /// True when the transaction state of the connection is known.
    whole: bool,
}

impl<'a> Turn<'a> {
    async fn take(writer: Writer<'a>) -> Result<Self, StoreError> {
        let Writer { pool, recent, files } = writer;
        let mut connection = pool.acquire().await.map_err(store_error)?;
        if recent.is_doubtful() {
            recent.reload(schema::load(&mut connection).await.map_err(store_error)?);
        }
        Ok(Self { connection, recent, files, whole: true })
    }

    /// Runs statements as one transaction.
    async fn transact(&mut self, statements: &str, parameters: &[String]) -> Result<(), StoreError> {
        // Check first: a truncated log would be long again after this transaction.
        self.files.check(&mut self.connection).await?;
        self.whole = false;
        let text = format!("BEGIN IMMEDIATE; {statements} COMMIT");
        let mut query = sqlx::query(AssertSqlSafe(text));
        for parameter in parameters {
            query = query.bind(parameter);
        }
        let stored = query.execute(&mut *self.connection).await;
        // The next start would not find a lost file, so nothing in it counts as stored, whatever SQLite reports.
        if let Err(error) = self.files.check(&mut self.connection).await {
            // Keep the connection: a new one would open the file that is there now.
            self.whole = true;
            return Err(error);
        }
        stored.map_err(store_error)?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Turn<'_> {
    /// After a failure or a dropped caller, the transaction may be stored, rolled back by SQLite, or still open: closes
    /// the connection and has the cache read again.
    fn drop(&mut self) {
        if !self.whole {
            self.recent.doubt();
            self.connection.close_on_drop();
        }
    }
}

/// Stores a batch: see the port.
pub(super) async fn commit(
    writer: Writer<'_>,
    queue_limit: usize,
    fence: Fence,
    writes: &[Write],
) -> Result<Vec<Result<(), CommitError>>, StoreError> {
    // Hold the connection until `recent` is updated, so that commits reach both in the same order.
    let recent = writer.recent;
    let mut turn = Turn::take(writer).await?;
    if let (Fence::Plan(epoch), current) = (fence, recent.plan_epoch())
        && epoch != current
    {
        return Err(StoreError::StaleEpoch { current });
    }
    let mut batch = load(&mut turn.connection, recent, queue_limit, writes).await?;
    let outcomes = writes.iter().map(|write| batch.take(write)).collect();
    let sequence = recent.counts().1;
    let (statements, parameters) = statements(&batch, sequence)?;
    if !parameters.is_empty() {
        turn.transact(&statements, &parameters).await?;
        let sequence = sequence + batch.events.len() as u64;
        recent.stored(batch.next.values().map(|next| next.state), batch.open_jobs, sequence);
    }
    Ok(outcomes)
}

/// Stores events that belong to no transition: see the port.
pub(super) async fn record(writer: Writer<'_>, events: &[Envelope]) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    let recent = writer.recent;
    let mut turn = Turn::take(writer).await?;
    let sequence = recent.counts().1;
    let rows: Vec<_> = (sequence + 1..).zip(events).map(|(n, event)| event_row(n, event)).collect();
    turn.transact(INTO_EVENTS, &[column::json(&rows)?]).await?;
    recent.recorded(sequence + events.len() as u64);
    Ok(())
}

/// Takes a lease: see the port.
pub(super) async fn take_lease(
    writer: Writer<'_>,
    name: &str,
    seen: Epoch,
    holder: DaemonId,
) -> Result<Option<Epoch>, StoreError> {
    // Other writers wait for the connection, so the offered epoch stays free until it is taken.
    let recent = writer.recent;
    let mut turn = Turn::take(writer).await?;
    let Some(epoch) = recent.presence(|presence| presence.offer(name, seen)) else { return Ok(None) };
    let raise = "INSERT INTO leases (name, epoch) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch;";
    turn.transact(raise, &[name.to_owned(), epoch.0.to_string()]).await?;
    recent.presence(|presence| presence.taken(name, epoch, holder));
    Ok(Some(epoch))
}

/// Forgets ended aggregates: see the port.
pub(super) async fn forget(writer: Writer<'_>, jobs: &[JobId], before: Timestamp) -> Result<(), StoreError> {
    let ids = column::json(&jobs.iter().map(|id| Hex(id.as_uuid())).collect::<Vec<_>>())?;
    let [before, keys] = [before, before - KEY_OUTLIVES].map(|at| at.as_micros().to_string());
    let mut turn = Turn::take(writer).await?;
    turn.transact(FORGET, &[ids, before, keys]).await?;
    writer.recent.forget(jobs);
    Ok(())
}

/// $1 jobs, $2 latest end of workers and tokens, $3 latest end of the jobs of keys. Workers, tokens and events of the
/// platform are deleted in batches like jobs: the next call finds the rest.
const FORGET: &str = "
    UPDATE job_keys SET ended_at = (SELECT ended_at FROM jobs WHERE id = job)
        WHERE job IN (SELECT id FROM jobs WHERE ended_at IS NOT NULL
        AND id IN (SELECT unhex(value) FROM json_each($1)));
    UPDATE hodei SET forgotten = max(forgotten, (SELECT coalesce(max(sequence), 0) FROM events));
    DELETE FROM ended_labels WHERE (tenant, label, value, status, job) IN
        (SELECT jobs.tenant, label.key, label.value, jobs.status, jobs.id
        FROM jobs JOIN specs ON specs.job = jobs.id, json_each(specs.spec, '$.labels') AS label
        WHERE jobs.ended_at IS NOT NULL AND jobs.id IN (SELECT unhex(value) FROM json_each($1)));
    DELETE FROM specs WHERE job IN (SELECT id FROM jobs WHERE ended_at IS NOT NULL
        AND id IN (SELECT unhex(value) FROM json_each($1)));
    DELETE FROM long_specs WHERE job IN (SELECT id FROM jobs WHERE ended_at IS NOT NULL
        AND id IN (SELECT unhex(value) FROM json_each($1)));
    DELETE FROM events WHERE kind = 0 AND aggregate IN (SELECT id FROM jobs WHERE ended_at IS NOT NULL
        AND id IN (SELECT unhex(value) FROM json_each($1)));
    DELETE FROM jobs WHERE ended_at IS NOT NULL AND id IN (SELECT unhex(value) FROM json_each($1));
    DELETE FROM events WHERE kind = 1 AND aggregate IN
        (SELECT id FROM workers WHERE ended_at < CAST($2 AS INTEGER) ORDER BY ended_at LIMIT 500);
    DELETE FROM workers WHERE id IN
        (SELECT id FROM workers WHERE ended_at < CAST($2 AS INTEGER) ORDER BY ended_at LIMIT 500);
    DELETE FROM events WHERE kind = 4 AND aggregate IN (SELECT id FROM tokens WHERE
        min(ifnull(record ->> 'revoked_at', 9e18), ifnull(record ->> 'expires_at', 9e18)) < CAST($2 AS INTEGER)
        ORDER BY id LIMIT 500);
    DELETE FROM tokens WHERE id IN (SELECT id FROM tokens WHERE
        min(ifnull(record ->> 'revoked_at', 9e18), ifnull(record ->> 'expires_at', 9e18)) < CAST($2 AS INTEGER)
        ORDER BY id LIMIT 500);
    DELETE FROM events WHERE sequence IN (SELECT sequence FROM events
        WHERE aggregate = (SELECT store_id FROM hodei) AND kind = 5 AND at < CAST($2 AS INTEGER) LIMIT 20000);
    DELETE FROM job_keys WHERE ended_at < CAST($3 AS INTEGER);";

/// Creates a batch over the state of the database.
async fn load<'a>(
    connection: &mut SqliteConnection,
    recent: &Recent,
    queue_limit: usize,
    writes: &'a [Write],
) -> Result<Batch<'a>, StoreError> {
    let (mut versions, mut unknown) = (BTreeMap::new(), [const { Vec::new() }; column::KIND_COUNT]);
    for id in writes.iter().map(|write| write.next.id()) {
        match recent.version(id) {
            Some(version) => drop(versions.insert(id, version)),
            None if matches!(id, AggregateId::Job(id) if recent.is_new(id)) => {}
            None => {
                let (kind, id) = column::aggregate_key(id);
                unknown[kind as usize].push(Hex(id));
            }
        }
    }
    for ((kind, sql), ids) in (0..).zip(VERSIONS).zip(unknown) {
        if ids.is_empty() {
            continue;
        }
        let query = sqlx::query(sql).bind(column::json(&ids)?);
        for found in query.fetch_all(&mut *connection).await.map_err(store_error)? {
            let version: i64 = found.try_get(1).map_err(store_error)?;
            versions.insert(column::aggregate(kind, row::uuid(&found, 0)?)?, version.unsigned_abs());
        }
    }
    let mut keys = BTreeMap::new();
    for (tenant, key) in wanted_keys(writes) {
        let query = sqlx::query("SELECT job FROM job_keys WHERE tenant = ? AND job_key = ?");
        let query = query.bind(tenant.as_str()).bind(key);
        if let Some(found) = query.fetch_optional(&mut *connection).await.map_err(store_error)? {
            keys.insert((tenant.clone(), key.to_owned()), JobId::from_uuid(row::uuid(&found, 0)?));
        }
    }
    Ok(Batch::new(versions, keys, recent.counts().0, queue_limit))
}

/// Returns the statements that store a batch, with the rows of each table as one JSON array: the statements stay the
/// same however many rows there are. `sequence` is the number of the last event before these.
fn statements(batch: &Batch<'_>, sequence: u64) -> Result<(String, Vec<String>), StoreError> {
    let (mut specs, mut jobs, mut workers, mut providers) = (vec![], vec![], vec![], vec![]);
    let (mut secrets, mut tokens, mut long_specs) = (vec![], vec![], vec![]);
    for next in batch.next.values() {
        match next.state {
            Aggregate::Job(job) => {
                let id = Hex(job.id().as_uuid());
                if next.replaces.is_none() {
                    // The JSON is at least as long as all of the spec's texts.
                    let is_long = job.spec().size() > MAX_LISTED_SPEC_BYTES;
                    let spec = job.spec();
                    specs.push((id, if is_long { Arc::new(spec.listing()) } else { spec.clone() }));
                    long_specs.extend(is_long.then_some((id, spec)));
                }
                let worker = job.assignment().map(|assignment| Hex(assignment.worker.as_uuid()));
                let ended_at = job.ending().map(|ending| ending.at);
                let status = column::status(job.status());
                jobs.push((id, job.tenant(), job.version(), status, worker, ended_at, job.record()));
            }
            Aggregate::Worker(worker) => {
                let ended_at = match worker.state() {
                    WorkerState::Terminated { at, .. } => Some(*at),
                    _ => None,
                };
                workers.push((Hex(worker.id().as_uuid()), worker.version(), ended_at, worker));
            }
            Aggregate::Provider(provider) => {
                providers.push((Hex(provider.id().as_uuid()), provider.version(), provider));
            }
            Aggregate::Secret(secret) => {
                secrets.push((Hex(secret.id().as_uuid()), secret.version(), secret));
            }
            Aggregate::Token(token) => tokens.push((Hex(token.id().as_uuid()), token.version(), token)),
        }
    }
    let keys: Vec<_> =
        batch.new_keys.iter().map(|(tenant, key, job)| (tenant, key, Hex(job.as_uuid()))).collect();
    let events: Vec<_> = (sequence + 1..).zip(&batch.events).map(|(n, event)| event_row(n, event)).collect();
    let mut all = Statements::default();
    all.add(INTO_SPECS, &specs)?;
    all.add(INTO_LONG_SPECS, &long_specs)?;
    all.add(INTO_JOBS, &jobs)?;
    all.add(INTO_KEYS, &keys)?;
    all.add(INTO_WORKERS, &workers)?;
    all.add(INTO_PROVIDERS, &providers)?;
    all.add(INTO_SECRETS, &secrets)?;
    all.add(INTO_TOKENS, &tokens)?;
    all.add(INTO_EVENTS, &events)?;
    Ok((all.text, all.parameters))
}

/// A transaction under construction.
#[derive(Default)]
struct Statements {
    text: String,
    parameters: Vec<String>,
}

impl Statements {
    fn add<R: Serialize>(&mut self, statement: &str, rows: &[R]) -> Result<(), StoreError> {
        if !rows.is_empty() {
            self.text.push_str(statement);
            self.parameters.push(column::json(rows)?);
        }
        Ok(())
    }
}

fn event_row(sequence: u64, envelope: &Envelope) -> impl Serialize + '_ {
    let (kind, aggregate) = column::aggregate_key(envelope.aggregate);
    (
        sequence,
        Hex(envelope.id.as_uuid()),
        kind,
        Hex(aggregate),
        envelope.version,
        Hex(envelope.correlation.as_uuid()),
        envelope.causation.map(|id| Hex(id.as_uuid())),
        column::actor(envelope.actor),
        envelope.at,
        envelope.schema,
        &envelope.event,
    )
}

const INTO_SPECS: &str =
    "INSERT INTO specs (job, spec) SELECT unhex(value ->> 0), value -> 1 FROM jsonb_each(?);";
const INTO_LONG_SPECS: &str =
    "INSERT INTO long_specs (job, spec) SELECT unhex(value ->> 0), value -> 1 FROM jsonb_each(?);";
const INTO_JOBS: &str = "INSERT INTO jobs (id, tenant, version, status, worker, ended_at, record)
    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, unhex(value ->> 4), value ->> 5, value -> 6
    FROM jsonb_each(?) WHERE true
    ON CONFLICT (id) DO UPDATE SET version = excluded.version, status = excluded.status,
    worker = excluded.worker, ended_at = excluded.ended_at, record = excluded.record;";
const INTO_KEYS: &str = "INSERT INTO job_keys (tenant, job_key, job)
    SELECT value ->> 0, value ->> 1, unhex(value ->> 2) FROM jsonb_each(?);";
const INTO_WORKERS: &str = "INSERT INTO workers (id, version, ended_at, record)
    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value -> 3 FROM jsonb_each(?) WHERE true
    ON CONFLICT (id) DO UPDATE SET version = excluded.version, ended_at = excluded.ended_at,
    record = excluded.record;";
const INTO_PROVIDERS: &str = "INSERT INTO providers (id, version, record)
    SELECT unhex(value ->> 0), value ->> 1, value -> 2 FROM jsonb_each(?) WHERE true
    ON CONFLICT (id) DO UPDATE SET version = excluded.version, record = excluded.record;";
const INTO_SECRETS: &str = "INSERT INTO secrets (id, version, record)
    SELECT unhex(value ->> 0), value ->> 1, value -> 2 FROM jsonb_each(?) WHERE true
    ON CONFLICT (id) DO UPDATE SET version = excluded.version, record = excluded.record;";
const INTO_TOKENS: &str = "INSERT INTO tokens (id, version, record)
    SELECT unhex(value ->> 0), value ->> 1, value -> 2 FROM jsonb_each(?) WHERE true
    ON CONFLICT (id) DO UPDATE SET version = excluded.version, record = excluded.record;";
const INTO_EVENTS: &str = "INSERT INTO events
    (sequence, id, kind, aggregate, version, correlation, causation, actor, at, schema, event)
    SELECT value ->> 0, unhex(value ->> 1), value ->> 2, unhex(value ->> 3), value ->> 4, unhex(value ->> 5),
    unhex(value ->> 6), value ->> 7, value ->> 8, value ->> 9, value -> 10 FROM jsonb_each(?);";

/// Queries by number of the aggregate's kind: see [`column::aggregate_key`].
const VERSIONS: [&str; column::KIND_COUNT] = [
    "SELECT id, version FROM jobs WHERE id IN (SELECT unhex(value) FROM json_each(?))",
    "SELECT id, version FROM workers WHERE id IN (SELECT unhex(value) FROM json_each(?))",
    "SELECT id, version FROM providers WHERE id IN (SELECT unhex(value) FROM json_each(?))",
    "SELECT id, version FROM secrets WHERE id IN (SELECT unhex(value) FROM json_each(?))",
    "SELECT id, version FROM tokens WHERE id IN (SELECT unhex(value) FROM json_each(?))",
];
