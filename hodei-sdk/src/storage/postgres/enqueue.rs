//! Jobs that arrive in another program's transaction or through `hodei.enqueue`.

use std::collections::BTreeMap;
use std::sync::Arc;

use hodei_core::decision::{Aggregate, Decision};
use hodei_core::event::{Actor, Envelope};
use hodei_core::id::{EventId, JobId};
use hodei_core::job::{Job, JobInput, JobSpec, Submission, TenantId, check_new, check_new_id, limits, step};
use hodei_core::port::{Clock, CommitError, IdGenerator, StoreError, Write};
use hodei_core::provider::{Provider, refusal};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor, Row};
use uuid::Uuid;

use super::connection::{is_broken, is_contested, store_error};
use super::rows::Rows;
use super::transaction::{Failed, look};
use super::{PostgresStore, row};
use crate::clock::SystemClock;
use crate::ids::SystemIds;
use crate::storage::shared::batch::Batch;
use crate::wire::document::JobDocument;
use crate::{Error, JobDocumentError, JobKey};

/// Attempts at a change that other writers may overtake.
const MAX_ATTEMPTS: usize = 4;
/// Maximum number of inserted jobs that one transaction accepts.
const MAX_BATCH_JOBS: i64 = 500;

impl PostgresStore {
    /// Submits a job in the caller's transaction: the job is invisible before the commit, and a rollback leaves no
    /// trace of it. If another job has the same idempotency key and the same spec, returns that job. Secrets and inputs
    /// are checked at delivery, because a store knows neither.
    ///
    /// ```no_run
    /// # async fn example(store: &hodei_sdk::PostgresStore, pool: &sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = pool.begin().await?;
    /// sqlx::query("INSERT INTO orders (item) VALUES ('book')").execute(&mut *tx).await?;
    /// let job = store.submit_in(&mut tx, hodei_sdk::JobSpec::command(["pack", "book"]).build()?).await?;
    /// tx.commit().await?;
    /// # drop(job);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Not cancel safe: when dropped, roll the transaction back.
    ///
    /// # Errors
    /// [`Error::Spec`] and [`Error::Unsupported`] when a field cannot be honoured, and [`Error::AlreadyExists`] when a
    /// job with another spec has the idempotency key; the transaction stays usable. [`Error::Store`] when the database
    /// rejected a statement, which ends the transaction.
    pub async fn submit_in(&self, tx: &mut PgConnection, spec: JobSpec) -> Result<JobId, Error> {
        let failed = |error| Error::Store(store_error(error));
        check_new(&spec)?;
        let found = tx.fetch_all("SELECT record FROM hodei.providers").await.map_err(failed)?;
        let providers: Vec<Provider> =
            found.iter().map(|provider| row::document(provider, 0)).collect::<Result<_, _>>()?;
        if let Some(unsupported) = refusal(providers.iter().map(Provider::profile), &spec) {
            return Err(Error::Unsupported(unsupported));
        }
        let id = JobId::from_uuid(self.ids.uuid(SystemClock::default().now()));
        let write = written(&submitted(id, Arc::new(spec.clone()))?);
        for _ in 0..MAX_ATTEMPTS {
            if let Some((existing, known)) = holder_of_key(tx, &spec).await? {
                return if known == Some(spec) {
                    Ok(existing)
                } else {
                    Err(Error::AlreadyExists { key: JobKey::Idempotency, existing })
                };
            }
            let mut batch = Batch::new(BTreeMap::new(), BTreeMap::new(), 0, usize::MAX);
            batch.take(&write).map_err(|_| Error::Contended)?;
            let rows = Rows::of(&batch)?;
            let (text, arguments) = rows.statement().map_err(failed)?;
            tx.execute("SAVEPOINT hodei_submit").await.map_err(failed)?;
            let stored = tx.fetch_one(sqlx::query_with(AssertSqlSafe(text), arguments)).await;
            if stored.and_then(|stored| stored.try_get::<i64, _>(0)).map_err(failed)? == rows.expected() {
                let hint = sqlx::query("SELECT pg_notify('hodei', 'job ' || $1)").bind(id.to_string());
                tx.execute(hint).await.map_err(failed)?;
                tx.execute("RELEASE SAVEPOINT hodei_submit").await.map_err(failed)?;
                return Ok(id);
            }
            // Another transaction took the key in the meantime.
            tx.execute("ROLLBACK TO SAVEPOINT hodei_submit").await.map_err(failed)?;
        }
        Err(Error::Contended)
    }

    /// Turns jobs that were inserted by SQL into submitted jobs. Without `ids`, takes the first ones that no other
    /// daemon is taking, and returns their events for the caller to publish. With `ids`, takes those jobs and sends
    /// their hints itself.
    pub(crate) async fn take_in(&self, ids: Option<&[Uuid]>) -> Result<Vec<Envelope>, StoreError> {
        for _ in 0..MAX_ATTEMPTS {
            match self.try_take_in(ids).await {
                Ok(Some(events)) => return Ok(events),
                Ok(None) => {}
                Err(Failed::Contested) => {}
                Err(Failed::Sql(error)) if is_broken(&error) || is_contested(&error) => {}
                Err(Failed::Sql(error)) => return Err(store_error(error)),
                Err(Failed::Store(error)) => return Err(error),
            }
        }
        let why = "other writers keep changing the same jobs, or connections keep breaking".to_owned();
        Err(StoreError::Unavailable { retry_after: std::time::Duration::from_secs(1), why })
    }

    /// Returns `None` when another writer was faster. After an unknown outcome, the next attempt takes the remaining
    /// jobs.
    async fn try_take_in(&self, ids: Option<&[Uuid]>) -> Result<Option<Vec<Envelope>>, Failed> {
        let mut turn = self.database.turn().await?;
        turn.run("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        let query = match ids {
            Some(ids) => sqlx::query(TAKE_THESE).bind(ids),
            None => sqlx::query(TAKE_SOME).bind(MAX_BATCH_JOBS),
        };
        let found = turn.rows(query).await?;
        let mut writes = Vec::with_capacity(found.len());
        for found in &found {
            let (id, document): (Uuid, &str) = (row::get(found, 0)?, row::get(found, 1)?);
            writes.extend(job_of(JobId::from_uuid(id), document)?);
        }
        let (versions, keys) = look(&mut turn, &writes).await?;
        // Try first: a job whose key is taken becomes a failed job that says so.
        let mut tried = Batch::new(versions.clone(), keys.clone(), 0, usize::MAX);
        let outcomes: Vec<_> = writes.iter().map(|write| tried.take(write)).collect();
        let mut taken = Vec::with_capacity(writes.len());
        for (write, outcome) in writes.iter().zip(outcomes) {
            match outcome {
                Ok(()) => taken.push(write.clone()),
                Err(CommitError::Duplicate { existing }) => {
                    let job = job(&write.next)?;
                    let why = format!("the idempotency key belongs to job {existing}");
                    taken.extend(refused(job.id(), job.spec().again(), why)?);
                }
                Err(_) => {
                    let id = job(&write.next)?.id();
                    tracing::warn!(%id, "a job was inserted by SQL with the id of an existing job, which stays as it is");
                }
            }
        }
        let mut batch = Batch::new(versions, keys, 0, usize::MAX);
        taken.iter().for_each(|write| {
            let _ = batch.take(write);
        });
        let rows = Rows::of(&batch)?;
        if !rows.is_empty() && rows.store(&mut turn).await? != rows.expected() {
            return Ok(None);
        }
        if ids.is_some() {
            let mut jobs: Vec<Uuid> = taken
                .iter()
                .filter_map(|write| job(&write.next).ok())
                .map(|job| job.id().as_uuid())
                .collect();
            jobs.dedup();
            let hint = "SELECT pg_notify('hodei', 'job ' || job) FROM unnest($1::uuid[]) job";
            turn.rows(sqlx::query(hint).bind(&jobs)).await?;
        }
        turn.run("COMMIT").await?;
        turn.end();
        Ok(Some(taken.into_iter().flat_map(|write| write.events).collect()))
    }
}

const TAKE_SOME: &str = "DELETE FROM hodei.inbox WHERE id IN (SELECT id FROM hodei.inbox ORDER BY id LIMIT $1 \
    FOR UPDATE SKIP LOCKED) RETURNING id, document::text";
/// Waits for daemons that are taking the same jobs.
const TAKE_THESE: &str = "DELETE FROM hodei.inbox WHERE id = ANY($1) RETURNING id, document::text";

/// Returns the job that has the idempotency key of a spec, and that job's spec.
async fn holder_of_key(
    tx: &mut PgConnection,
    spec: &JobSpec,
) -> Result<Option<(JobId, Option<JobSpec>)>, Error> {
    let Some(key) = spec.idempotency_key() else { return Ok(None) };
    let sql = "SELECT k.job, s.spec FROM hodei.job_keys k LEFT JOIN hodei.specs s ON s.job = k.job \
               WHERE k.tenant = $1 AND k.job_key = $2";
    let query = sqlx::query(sql).bind(TenantId::default().as_str().to_owned()).bind(key.to_owned());
    let found = tx.fetch_optional(query).await.map_err(store_error)?;
    let Some(found) = found else { return Ok(None) };
    let known: Option<&str> = row::get(&found, 1)?;
    Ok(Some((
        JobId::from_uuid(row::get(&found, 0)?),
        known.map(crate::storage::shared::column::parse).transpose()?,
    )))
}

/// Returns the writes that store the job of a document. A rejected document becomes a failed job that says why, with
/// the document as its standard input.
fn job_of(id: JobId, document: &str) -> Result<Vec<Write>, StoreError> {
    let id = ordered(id);
    let parsed: Result<JobDocument, JobDocumentError> = document.parse();
    match parsed {
        Ok(parsed) => Ok(vec![written(&submitted(id, Arc::new(parsed.spec))?)]),
        Err(error) => {
            let end = document.floor_char_boundary(limits::STDIN_BYTES);
            let shown = JobSpec::command(["hodei.enqueue"]).name("refused").stdin(document[..end].to_owned());
            let shown = shown.build().map_err(|error| StoreError::Other(error.into()))?;
            refused(id, shown, error.to_string())
        }
    }
}

/// Returns the id, or another one if stores could not order jobs by it. `hodei.enqueue` rejects such ids; a row with
/// one was inserted by an earlier version or without `hodei.enqueue`, and its job still runs.
fn ordered(id: JobId) -> JobId {
    let now = SystemClock::default().now();
    let Err(why) = check_new_id(id, now) else { return id };
    let other = JobId::from_uuid(SystemIds::default().uuid(now));
    tracing::warn!(%id, %other, "a job was inserted by SQL with an unusable id and gets another one: {why}");
    other
}

/// Returns the writes that store a job that failed before it could run.
fn refused(id: JobId, spec: JobSpec, why: String) -> Result<Vec<Write>, StoreError> {
    let submitted = submitted(id, Arc::new(spec))?;
    let rejected = step(Some(job(&submitted.next)?), JobInput::Reject { why }, SystemClock::default().now());
    let rejected = rejected.map_err(|error| StoreError::Other(error.into()))?;
    Ok(vec![written(&submitted), written(&rejected)])
}

fn submitted(id: JobId, spec: Arc<JobSpec>) -> Result<Decision, StoreError> {
    let submission = Submission { id, tenant: TenantId::default(), spec, retry_of: None };
    step(None, JobInput::Submit(submission), SystemClock::default().now())
        .map_err(|error| StoreError::Other(error.into()))
}

fn job(aggregate: &Aggregate) -> Result<&Job, StoreError> {
    match aggregate {
        Aggregate::Job(job) => Ok(job),
        _ => Err(StoreError::Other("a submission did not create a job".into())),
    }
}

fn written(decision: &Decision) -> Write {
    let (ids, at) = (SystemIds::default(), SystemClock::default().now());
    Write::of(decision, Actor::Client, || EventId::from_uuid(ids.uuid(at)))
}
