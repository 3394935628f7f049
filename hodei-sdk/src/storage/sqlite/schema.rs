//! Connections, migrations and start-up reads of a SQLite database, and the meaning of SQLite's errors.

use std::path::Path;
use std::time::Duration;

use hodei_core::id::{JobId, StoreId, WorkerId};
use hodei_core::port::{Epoch, StoreError};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, SqlSafeStr, SqliteConnection, SqlitePool};
use uuid::Uuid;

use super::errors::open_error;
use super::recent::Loaded;
use super::row;
use crate::error::OpenError;

/// The migrations, in order; the schema version is their number. A change that older programs cannot work with
/// raises `hodei.needs` to its version: expand first, contract in a later release.
const MIGRATIONS: [(&str, &str); 8] = [
    ("first", include_str!("0001_first.sql")),
    ("secrets", include_str!("0002_secrets.sql")),
    ("tokens", include_str!("0003_tokens.sql")),
    ("artifacts", include_str!("0004_artifacts.sql")),
    ("place", include_str!("0005_place.sql")),
    ("listing", include_str!("0006_listing.sql")),
    ("lists", include_str!("0007_lists.sql")),
    ("long_specs", include_str!("0008_long_specs.sql")),
];

/// Lowest schema version that a program must know to use the migrated tables.
const NEEDS_SCHEMA: i64 = 8;

/// Size of the write-ahead log that SQLite keeps once its pages are in the database.
pub(super) const MAX_KEPT_LOG_BYTES: u64 = 64 << 20;

/// `PRAGMA application_id`: the letters "HODI".
const APPLICATION_ID: i64 = 0x484F_4449;

/// Connection pools of a database.
#[derive(Debug, Clone)]
pub(super) struct Pools {
    /// One connection, so that writers take turns without failing.
    pub(super) writer: SqlitePool,
    /// For queries of the platform itself.
    pub(super) readers: SqlitePool,
    /// For queries of clients: a slow list delays only other lists.
    pub(super) lists: SqlitePool,
}

/// Connects to a database; an empty file is a new one.
pub(super) async fn connect(path: &Path) -> Result<Pools, OpenError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        // A removed file is an error; do not create another.
        .create_if_missing(false)
        .busy_timeout(Duration::from_secs(5))
        .thread_name(|number| format!("hodei-sqlite-{number}"))
        .disable_statement_logging();
    // Check before setting the journal mode, which would write to another program's database.
    let mut first = options.clone().connect().await.map_err(|error| open_error(path, error))?;
    let looked = async {
        let application: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut first).await?;
        let tables: i64 =
            sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut first).await?;
        Ok((application, tables))
    };
    let (application, tables) = looked.await.map_err(|error| open_error(path, error))?;
    if application != APPLICATION_ID && (application != 0 || tables > 0) {
        let why = "it is a database of another program: choose another data directory".to_owned();
        return Err(OpenError::NotAStore { path: path.to_owned(), why });
    }
    if application != APPLICATION_ID {
        // Mark it first, so that the next start recognizes it even if this one is interrupted.
        let mark = sqlx::query(AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION_ID}")));
        let mark = mark.execute(&mut first).await;
        mark.map_err(|error| open_error(path, error))?;
    }
    drop(first);
    let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
    // Truncate the write-ahead log after a burst of writes, and keep 8 MiB of pages in memory.
    let options = options
        .pragma("journal_size_limit", MAX_KEPT_LOG_BYTES.to_string())
        .pragma("cache_size", "-8192")
        .pragma("wal_autocheckpoint", "4000");
    let pool = |connections| {
        SqlitePoolOptions::new()
            .max_connections(connections)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(Duration::from_secs(30))
            .test_before_acquire(false)
    };
    let connected = async {
        let writer = pool(1).connect_with(options.clone()).await?;
        // A connection that is opened later must not write to a file that replaced the database.
        let options = options.read_only(true);
        let readers = pool(2).connect_with(options.clone()).await?;
        Ok(Pools { writer, readers, lists: pool(1).connect_with(options).await? })
    };
    connected.await.map_err(|error| open_error(path, error))
}

/// Migrates a database to the current schema and returns the id of its store.
pub(super) async fn prepare(path: &Path, writer: &SqlitePool, id: Uuid) -> Result<StoreId, OpenError> {
    let failed = |error: sqlx::Error| open_error(path, error);
    if let Some(needs) = needs(writer).await.map_err(failed)?
        && needs > MIGRATIONS.len() as i64
    {
        return Err(OpenError::Newer { path: path.to_owned(), needs, knows: MIGRATIONS.len() as i64 });
    }
    let migrations = (1..).zip(MIGRATIONS).map(|(version, (name, sql))| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    // A newer program may have added migrations that this one need not know.
    migrator.set_ignore_missing(true);
    migrator.run(writer).await.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(error) => open_error(path, error),
        error => OpenError::NotAStore { path: path.to_owned(), why: error.to_string() },
    })?;
    let stored = async {
        // Check first: reading a store needs no free disk space.
        let known = "SELECT store_id FROM hodei";
        if let Some(known) = sqlx::query(known).fetch_optional(writer).await? {
            return Ok(known);
        }
        let new = sqlx::query("INSERT INTO hodei (only_row, store_id, needs) VALUES (1, ?, ?)");
        new.bind(row::blob(id)).bind(NEEDS_SCHEMA).execute(writer).await?;
        sqlx::query(known).fetch_one(writer).await
    };
    let stored = row::uuid(&stored.await.map_err(failed)?, 0);
    stored
        .map(StoreId::from_uuid)
        .map_err(|error| OpenError::NotAStore { path: path.to_owned(), why: error.to_string() })
}

async fn needs(writer: &SqlitePool) -> Result<Option<i64>, sqlx::Error> {
    let there = "SELECT count(*) FROM sqlite_schema WHERE name = 'hodei'";
    if sqlx::query_scalar::<_, i64>(there).fetch_one(writer).await? == 0 {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT needs FROM hodei").fetch_optional(writer).await
}

/// Reads the state that is served from memory.
pub(super) async fn load(connection: &mut SqliteConnection) -> Result<Loaded, sqlx::Error> {
    let decode = |error: StoreError| sqlx::Error::Decode(error.into());
    let workers =
        sqlx::query("SELECT record FROM workers WHERE ended_at IS NULL").fetch_all(&mut *connection).await?;
    let workers =
        workers.iter().map(|row| row::document(row, 0)).collect::<Result<_, _>>().map_err(decode)?;
    let providers = sqlx::query("SELECT record FROM providers").fetch_all(&mut *connection).await?;
    let providers =
        providers.iter().map(|row| row::document(row, 0)).collect::<Result<_, _>>().map_err(decode)?;
    let assigned = sqlx::query("SELECT id, worker FROM jobs WHERE ended_at IS NULL AND worker IS NOT NULL")
        .fetch_all(&mut *connection)
        .await?;
    let assigned = assigned
        .iter()
        .map(|found| Ok((JobId::from_uuid(row::uuid(found, 0)?), WorkerId::from_uuid(row::uuid(found, 1)?))));
    let assigned = assigned.collect::<Result<_, _>>().map_err(decode)?;
    let counts = sqlx::query_as::<_, (i64, i64)>(
        "SELECT (SELECT count(*) FROM jobs WHERE ended_at IS NULL),
         max(forgotten, (SELECT coalesce(max(sequence), 0) FROM events)) FROM hodei",
    );
    let (open_jobs, sequence) = counts.fetch_one(&mut *connection).await?;
    let highest = sqlx::query("SELECT id FROM jobs ORDER BY id DESC LIMIT 1");
    let highest = highest.fetch_optional(&mut *connection).await?;
    let highest =
        highest.map(|found| row::uuid(&found, 0).map(JobId::from_uuid)).transpose().map_err(decode)?;
    let leases = sqlx::query_as::<_, (String, i64)>("SELECT name, epoch FROM leases");
    let leases = leases.fetch_all(&mut *connection).await?;
    let epoch = |epoch| Epoch(u32::try_from(epoch).unwrap_or(u32::MAX));
    Ok(Loaded {
        workers,
        providers,
        assigned,
        open_jobs: usize::try_from(open_jobs).unwrap_or(0),
        highest_job: highest,
        sequence: sequence.unsigned_abs(),
        epochs: leases.into_iter().map(|(name, number)| (name, epoch(number))).collect(),
    })
}

#[cfg(test)]
mod tests {
    use hodei_core::job::JobSpec;

    use super::*;
    use crate::storage::shared::column;

    #[tokio::test]
    async fn migrated_long_specs_are_kept_whole_and_listed_without_input() {
        let memory = SqliteConnectOptions::new().in_memory(true);
        let mut database = memory.connect().await.unwrap();
        let (before, last) = MIGRATIONS.split_at(7);
        for (_, sql) in before {
            sqlx::raw_sql(AssertSqlSafe(*sql)).execute(&mut database).await.unwrap();
        }
        let text = "x".repeat(10_000);
        let specs = [
            JobSpec::command(["cat"]).stdin(text.clone()).env("A", "b"),
            JobSpec::script(text.clone()),
            JobSpec::command(["true"]).env("LONG", text),
            JobSpec::command(["true"]).env("SHORT", "1"),
        ];
        let specs: Vec<JobSpec> = specs.into_iter().map(|spec| spec.build().unwrap()).collect();
        for (number, spec) in (0_i64..).zip(&specs) {
            let whole = column::json(spec).unwrap();
            let stored =
                sqlx::query("INSERT INTO specs VALUES (CAST(? AS BLOB), ?)").bind(number).bind(whole);
            stored.execute(&mut database).await.unwrap();
        }
        // Schema versions from 6 on stored a short form of some specs.
        let listed = sqlx::query("INSERT INTO listings VALUES (CAST(0 AS BLOB), ?)");
        listed.bind(column::json(&specs[0].listing()).unwrap()).execute(&mut database).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(last[0].1)).execute(&mut database).await.unwrap();
        let read =
            "SELECT specs.spec, long_specs.spec FROM specs LEFT JOIN long_specs USING (job) ORDER BY job";
        let found =
            sqlx::query_as::<_, (String, Option<String>)>(read).fetch_all(&mut database).await.unwrap();
        for (spec, (shown, whole)) in specs.iter().zip(found) {
            let shown_bytes = shown.len();
            let shown: JobSpec = column::parse(&shown).unwrap();
            let whole = whole.map_or_else(|| shown.clone(), |whole| column::parse(&whole).unwrap());
            assert_eq!(whole, *spec);
            assert!(shown_bytes < 2048, "{shown_bytes} bytes are listed");
            assert_eq!(shown.listing().name(), spec.name());
        }
    }
}
