//! Rows of a checked batch, and the one statement that stores them.

use hodei_core::decision::Aggregate;
use hodei_core::event::Envelope;
use hodei_core::job::Job;
use hodei_core::port::{COORDINATOR_LEASE, Fence, StoreError};
use hodei_core::worker::{Worker, WorkerState};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments, AssertSqlSafe, Row};
use uuid::Uuid;

use super::connection::Turn;
use crate::storage::shared::batch::{Batch, Next};
use crate::storage::shared::column;

/// Columns of the rows, for each table and each way of writing to it.
#[derive(Debug, Default)]
pub(super) struct Rows {
    created: Jobs,
    changed: Jobs,
    ended: Jobs,
    finished: Finished,
    specs: Specs,
    keys: Keys,
    new_workers: Records,
    workers: Records,
    new_providers: Records,
    providers: Records,
    new_secrets: Records,
    secrets: Records,
    new_tokens: Records,
    tokens: Records,
    events: Events,
}

#[derive(Debug, Default)]
struct Jobs {
    ids: Vec<Uuid>,
    /// Version that the row must have.
    replaces: Vec<i64>,
    tenants: Vec<String>,
    versions: Vec<i64>,
    statuses: Vec<i16>,
    workers: Vec<Option<Uuid>>,
    records: Vec<String>,
}

#[derive(Debug, Default)]
struct Finished {
    ids: Vec<Uuid>,
    tenants: Vec<String>,
    versions: Vec<i64>,
    statuses: Vec<i16>,
    ended_at: Vec<i64>,
    records: Vec<String>,
}

#[derive(Debug, Default)]
struct Specs {
    jobs: Vec<Uuid>,
    specs: Vec<String>,
    listings: Vec<Option<String>>,
    labels: Vec<Option<String>>,
}

#[derive(Debug, Default)]
struct Keys {
    tenants: Vec<String>,
    keys: Vec<String>,
    jobs: Vec<Uuid>,
}

/// Rows of workers, providers, secrets or tokens.
#[derive(Debug, Default)]
struct Records {
    ids: Vec<Uuid>,
    replaces: Vec<i64>,
    versions: Vec<i64>,
    ended_at: Vec<Option<i64>>,
    records: Vec<String>,
}

#[derive(Debug, Default)]
struct Events {
    ids: Vec<Uuid>,
    kinds: Vec<i16>,
    aggregates: Vec<Uuid>,
    versions: Vec<i64>,
    correlations: Vec<Uuid>,
    causations: Vec<Option<Uuid>>,
    actors: Vec<i16>,
    at: Vec<i64>,
    schemas: Vec<i16>,
    events: Vec<String>,
}

impl Rows {
    pub(super) fn of(batch: &Batch<'_>) -> Result<Self, StoreError> {
        let mut rows = Self::default();
        for next in batch.next.values() {
            match next.state {
                Aggregate::Job(job) => rows.push_job(job, next)?,
                Aggregate::Worker(worker) => {
                    let table =
                        if next.replaces.is_some() { &mut rows.workers } else { &mut rows.new_workers };
                    let record = column::json(&**worker)?;
                    table.add(worker.id().as_uuid(), next, worker.version(), ended_at(worker), record);
                }
                Aggregate::Provider(provider) => {
                    let table =
                        if next.replaces.is_some() { &mut rows.providers } else { &mut rows.new_providers };
                    let record = column::json(&**provider)?;
                    table.add(provider.id().as_uuid(), next, provider.version(), None, record);
                }
                Aggregate::Secret(secret) => {
                    let table =
                        if next.replaces.is_some() { &mut rows.secrets } else { &mut rows.new_secrets };
                    table.add(secret.id().as_uuid(), next, secret.version(), None, column::json(&**secret)?);
                }
                Aggregate::Token(token) => {
                    let table = if next.replaces.is_some() { &mut rows.tokens } else { &mut rows.new_tokens };
                    table.add(token.id().as_uuid(), next, token.version(), None, column::json(&**token)?);
                }
            }
        }
        for (tenant, key, job) in &batch.new_keys {
            rows.keys.tenants.push(tenant.as_str().to_owned());
            rows.keys.keys.push((*key).to_owned());
            rows.keys.jobs.push(job.as_uuid());
        }
        for event in &batch.events {
            rows.events.add(event)?;
        }
        Ok(rows)
    }

    /// Creates rows for events alone.
    pub(super) fn of_events(events: &[Envelope]) -> Result<Self, StoreError> {
        let mut rows = Self::default();
        events.iter().try_for_each(|event| rows.events.add(event))?;
        Ok(rows)
    }

    fn push_job(&mut self, job: &Job, next: &Next<'_>) -> Result<(), StoreError> {
        let id = job.id().as_uuid();
        if next.replaces.is_none() {
            let labels = job.spec().labels();
            let labels = if labels.is_empty() { None } else { Some(column::json(labels)?) };
            self.specs.jobs.push(id);
            let spec = column::json(job.spec())?;
            self.specs.listings.push(column::listing(job.spec(), &spec)?);
            self.specs.specs.push(spec);
            self.specs.labels.push(labels);
        }
        let record = column::json(&job.record())?;
        let (tenant, version) = (job.tenant().as_str().to_owned(), column::int(job.version()));
        let status = column::status(job.status());
        if let Some(ending) = job.ending() {
            if let Some(replaces) = next.replaces {
                self.ended.ids.push(id);
                self.ended.replaces.push(column::int(replaces));
            }
            let finished = &mut self.finished;
            finished.ids.push(id);
            finished.tenants.push(tenant);
            finished.versions.push(version);
            finished.statuses.push(status);
            finished.ended_at.push(ending.at.as_micros());
            finished.records.push(record);
            return Ok(());
        }
        let table = if next.replaces.is_some() { &mut self.changed } else { &mut self.created };
        table.ids.push(id);
        table.replaces.push(next.replaces.map_or(0, column::int));
        table.tenants.push(tenant);
        table.versions.push(version);
        table.statuses.push(status);
        table.workers.push(job.assignment().map(|assignment| assignment.worker.as_uuid()));
        table.records.push(record);
        Ok(())
    }

    /// Returns the number of rows that must be written if the database has the expected state.
    pub(super) fn expected(&self) -> i64 {
        let jobs =
            self.created.ids.len() + self.changed.ids.len() + self.ended.ids.len() + self.finished.ids.len();
        let workers = self.new_workers.ids.len() + self.workers.ids.len();
        let providers = self.new_providers.ids.len() + self.providers.ids.len();
        let secrets = self.new_secrets.ids.len() + self.secrets.ids.len();
        let tokens = self.new_tokens.ids.len() + self.tokens.ids.len();
        let others = workers + providers + secrets + tokens;
        (jobs + self.specs.jobs.len() + self.keys.jobs.len() + others) as i64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.expected() == 0 && self.events.ids.is_empty()
    }

    /// Stores the rows in the open transaction; returns how many were written because the database had the expected
    /// state.
    pub(super) async fn store(&self, turn: &mut Turn) -> Result<i64, sqlx::Error> {
        let (text, arguments) = self.statement()?;
        let rows: Vec<PgRow> = turn.rows(sqlx::query_with(AssertSqlSafe(text), arguments)).await?;
        rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)
    }

    /// Returns the statement that stores and counts the rows.
    pub(super) fn statement(&self) -> Result<(String, PgArguments), sqlx::Error> {
        let statement = self.parts()?;
        let text = format!("WITH {} SELECT ({})::bigint", statement.parts.join(",\n"), statement.count());
        Ok((text, statement.arguments))
    }

    /// Stores all of the rows or none, in a transaction of their own; fails as contested when the database does not
    /// have the expected state.
    pub(super) async fn store_alone(&self, turn: &mut Turn, fence: Fence) -> Result<(), sqlx::Error> {
        let mut statement = self.parts()?;
        let mut is_fit = format!("({}) = {}", statement.count(), statement.value(self.expected())?);
        if let Fence::Plan(epoch) = fence
            && !cfg!(hodei_break = "epoch")
        {
            let [name, epoch] = [statement.value(COORDINATOR_LEASE)?, statement.value(i64::from(epoch.0))?];
            statement.parts.push(format!(
                "fence AS (SELECT 1 FROM hodei.leases WHERE name = {name} AND epoch = {epoch} FOR SHARE)"
            ));
            is_fit += " AND EXISTS (SELECT 1 FROM fence)";
        }
        let parts = statement.parts.join(",\n");
        let text = format!("WITH {parts} SELECT CASE WHEN {is_fit} THEN 0 ELSE hodei.undo() END");
        turn.alone(sqlx::query_with(AssertSqlSafe(text), statement.arguments)).await.map(drop)
    }

    fn parts(&self) -> Result<Statement, sqlx::Error> {
        let mut statement = Statement::default();
        self.job_parts(&mut statement)?;
        self.other_parts(&mut statement)?;
        self.events.insert(&mut statement)?;
        Ok(statement)
    }

    fn job_parts(&self, statement: &mut Statement) -> Result<(), sqlx::Error> {
        let Jobs { ids, replaces, .. } = &self.ended;
        if !ids.is_empty() {
            let [id, was] = [statement.bind(ids)?, statement.bind(replaces)?];
            statement.counted(
                "ended",
                format!(
                    "DELETE FROM hodei.jobs j USING unnest({id}::uuid[], {was}::bigint[]) n(id, was) \
                 WHERE j.id = n.id AND {} RETURNING 1",
                    is_version("j"),
                ),
            );
        }
        let Finished { ids, tenants, versions, statuses, ended_at, records } = &self.finished;
        if !ids.is_empty() {
            let columns = [
                statement.bind(ids)?,
                statement.bind(tenants)?,
                statement.bind(versions)?,
                statement.bind(statuses)?,
                statement.bind(ended_at)?,
                statement.bind(records)?,
            ];
            let [id, tenant, version, status, ended, record] = columns;
            statement.counted("finished", format!(
                "INSERT INTO hodei.history (id, tenant, version, status, ended_at, record) SELECT * FROM \
                 unnest({id}::uuid[], {tenant}::text[], {version}::bigint[], {status}::smallint[], {ended}::bigint[], \
                 {record}::text[]) ON CONFLICT DO NOTHING RETURNING 1",
            ));
        }
        let Jobs { ids, replaces, versions, statuses, workers, records, .. } = &self.changed;
        if !ids.is_empty() {
            let columns = [
                statement.bind(ids)?,
                statement.bind(replaces)?,
                statement.bind(versions)?,
                statement.bind(statuses)?,
                statement.bind(workers)?,
                statement.bind(records)?,
            ];
            let [id, was, version, status, worker, record] = columns;
            statement.counted("changed", format!(
                "UPDATE hodei.jobs j SET version = n.version, status = n.status, worker = n.worker, record = n.record \
                 FROM unnest({id}::uuid[], {was}::bigint[], {version}::bigint[], {status}::smallint[], {worker}::uuid[], \
                 {record}::text[]) n(id, was, version, status, worker, record) WHERE j.id = n.id AND {} RETURNING 1",
                is_version("j"),
            ));
        }
        let Jobs { ids, tenants, versions, statuses, workers, records, .. } = &self.created;
        if !ids.is_empty() {
            let columns = [
                statement.bind(ids)?,
                statement.bind(tenants)?,
                statement.bind(versions)?,
                statement.bind(statuses)?,
                statement.bind(workers)?,
                statement.bind(records)?,
            ];
            let [id, tenant, version, status, worker, record] = columns;
            statement.counted("created", format!(
                "INSERT INTO hodei.jobs (id, tenant, version, status, worker, record) SELECT * FROM \
                 unnest({id}::uuid[], {tenant}::text[], {version}::bigint[], {status}::smallint[], {worker}::uuid[], \
                 {record}::text[]) ON CONFLICT DO NOTHING RETURNING 1",
            ));
        }
        Ok(())
    }

    fn other_parts(&self, statement: &mut Statement) -> Result<(), sqlx::Error> {
        let Specs { jobs, specs, listings, labels } = &self.specs;
        if !jobs.is_empty() {
            let columns = [
                statement.bind(jobs)?,
                statement.bind(specs)?,
                statement.bind(listings)?,
                statement.bind(labels)?,
            ];
            let [job, spec, listing, labels] = columns;
            // Each existing job has one row here, which prevents a second job with its id.
            statement.counted(
                "specs",
                format!(
                    "INSERT INTO hodei.specs (job, spec, listing, labels) \
                 SELECT n.job, n.spec, n.listing, n.labels::jsonb FROM \
                 unnest({job}::uuid[], {spec}::text[], {listing}::text[], {labels}::text[]) \
                 n(job, spec, listing, labels) \
                 ON CONFLICT DO NOTHING RETURNING 1",
                ),
            );
        }
        let Keys { tenants, keys, jobs } = &self.keys;
        if !jobs.is_empty() {
            let [tenant, key, job] = [statement.bind(tenants)?, statement.bind(keys)?, statement.bind(jobs)?];
            statement.counted(
                "keys",
                format!(
                    "INSERT INTO hodei.job_keys (tenant, job_key, job) SELECT * FROM \
                 unnest({tenant}::text[], {key}::text[], {job}::uuid[]) ON CONFLICT DO NOTHING RETURNING 1",
                ),
            );
        }
        self.new_workers.insert(statement, "new_workers", "workers", true)?;
        self.workers.update(statement, "old_workers", "workers", true)?;
        self.new_providers.insert(statement, "new_providers", "providers", false)?;
        self.providers.update(statement, "old_providers", "providers", false)?;
        self.new_secrets.insert(statement, "new_secrets", "secrets", false)?;
        self.secrets.update(statement, "old_secrets", "secrets", false)?;
        self.new_tokens.insert(statement, "new_tokens", "tokens", false)?;
        self.tokens.update(statement, "old_tokens", "tokens", false)
    }
}

impl Records {
    fn add(&mut self, id: Uuid, next: &Next<'_>, version: u64, ended_at: Option<i64>, record: String) {
        self.ids.push(id);
        self.replaces.push(next.replaces.map_or(0, column::int));
        self.versions.push(column::int(version));
        self.ended_at.push(ended_at);
        self.records.push(record);
    }

    fn insert(
        &self,
        statement: &mut Statement,
        name: &'static str,
        table: &str,
        ends: bool,
    ) -> Result<(), sqlx::Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let [id, version, record] =
            [statement.bind(&self.ids)?, statement.bind(&self.versions)?, statement.bind(&self.records)?];
        let (column, value) = if ends {
            (", ended_at", statement.bind(&self.ended_at)? + "::bigint[]")
        } else {
            ("", String::new())
        };
        let more = if ends { format!(", {value}") } else { value };
        statement.counted(name, format!(
            "INSERT INTO hodei.{table} (id, version, record{column}) SELECT * FROM \
             unnest({id}::uuid[], {version}::bigint[], {record}::text[]{more}) ON CONFLICT DO NOTHING RETURNING 1",
        ));
        Ok(())
    }

    fn update(
        &self,
        statement: &mut Statement,
        name: &'static str,
        table: &str,
        ends: bool,
    ) -> Result<(), sqlx::Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let columns = [
            statement.bind(&self.ids)?,
            statement.bind(&self.replaces)?,
            statement.bind(&self.versions)?,
            statement.bind(&self.records)?,
            statement.bind(&self.ended_at)?,
        ];
        let [id, was, version, record, ended_at] = columns;
        let set = if ends { ", ended_at = n.ended_at" } else { "" };
        statement.counted(name, format!(
            "UPDATE hodei.{table} t SET version = n.version, record = n.record{set} FROM \
             unnest({id}::uuid[], {was}::bigint[], {version}::bigint[], {record}::text[], {ended_at}::bigint[]) \
             n(id, was, version, record, ended_at) WHERE t.id = n.id AND {} RETURNING 1", is_version("t"),
        ));
        Ok(())
    }
}

/// Returns the condition that a row has the version to be replaced.
fn is_version(table: &str) -> String {
    if cfg!(hodei_break = "cas") { "true".to_owned() } else { format!("{table}.version = n.was") }
}

impl Events {
    fn add(&mut self, envelope: &Envelope) -> Result<(), StoreError> {
        let (kind, aggregate) = column::aggregate_key(envelope.aggregate);
        self.ids.push(envelope.id.as_uuid());
        self.kinds.push(kind);
        self.aggregates.push(aggregate);
        self.versions.push(column::int(envelope.version));
        self.correlations.push(envelope.correlation.as_uuid());
        self.causations.push(envelope.causation.map(|id| id.as_uuid()));
        self.actors.push(column::actor(envelope.actor));
        self.at.push(envelope.at.as_micros());
        self.schemas.push(i16::try_from(envelope.schema).unwrap_or(i16::MAX));
        self.events.push(column::json(&envelope.event)?);
        Ok(())
    }

    fn insert(&self, statement: &mut Statement) -> Result<(), sqlx::Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let columns = [
            statement.bind(&self.ids)?,
            statement.bind(&self.kinds)?,
            statement.bind(&self.aggregates)?,
            statement.bind(&self.versions)?,
            statement.bind(&self.correlations)?,
            statement.bind(&self.causations)?,
            statement.bind(&self.actors)?,
            statement.bind(&self.at)?,
            statement.bind(&self.schemas)?,
            statement.bind(&self.events)?,
        ];
        let [id, kind, aggregate, version, correlation, causation, actor, at, schema, event] = columns;
        statement.parts.push(format!(
            "told AS (INSERT INTO hodei.events (tx, id, kind, aggregate, version, correlation, causation, actor, at, \
             schema, event) SELECT (pg_current_xact_id()::text::bigint + s.tx_offset)::text::xid8, n.* \
             FROM hodei.store s, unnest({id}::uuid[], {kind}::smallint[], {aggregate}::uuid[], \
             {version}::bigint[], {correlation}::uuid[], {causation}::uuid[], {actor}::smallint[], {at}::bigint[], \
             {schema}::smallint[], {event}::text[]) n)",
        ));
        Ok(())
    }
}

fn ended_at(worker: &Worker) -> Option<i64> {
    match worker.state() {
        WorkerState::Terminated { at, .. } => Some(at.as_micros()),
        _ => None,
    }
}

/// A statement under construction.
#[derive(Default)]
struct Statement {
    parts: Vec<String>,
    counted: Vec<&'static str>,
    arguments: PgArguments,
}

impl Statement {
    /// Adds a parameter; returns its placeholder.
    fn bind<'q, T>(&mut self, column: &'q [T]) -> Result<String, sqlx::Error>
    where
        &'q [T]: sqlx::Encode<'q, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        self.value(column)
    }

    fn value<'q, T>(&mut self, value: T) -> Result<String, sqlx::Error>
    where
        T: sqlx::Encode<'q, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        self.arguments.add(value).map_err(sqlx::Error::Encode)?;
        Ok(format!("${}", self.arguments.len()))
    }

    /// Returns the expression for the number of counted rows.
    fn count(&self) -> String {
        let counts: Vec<_> =
            self.counted.iter().map(|name| format!("(SELECT count(*) FROM {name})")).collect();
        if counts.is_empty() { "0".to_owned() } else { counts.join(" + ") }
    }

    /// Adds a part and counts its rows.
    fn counted(&mut self, name: &'static str, text: String) {
        self.parts.push(format!("{name} AS ({text})"));
        self.counted.push(name);
    }
}
