//! Creation and migration of the tables, and checks of database and role.

use std::time::Duration;

use hodei_core::id::StoreId;
use sqlx::Row;
use uuid::Uuid;

use super::connection::{Database, Turn, is_missing, open_error};
use super::incarnation;
use crate::error::OpenError;

/// The migrations, in order; the schema version is their number. A change that older programs cannot work with raises
/// `hodei.store.needs` to its version: expand first, contract in a later release.
const MIGRATIONS: [&str; 10] = [
    include_str!("0001_first.sql"),
    include_str!("0002_undo.sql"),
    include_str!("0003_secrets.sql"),
    include_str!("0004_tokens.sql"),
    include_str!("0005_artifacts.sql"),
    include_str!("0006_limits.sql"),
    include_str!("0007_incarnation.sql"),
    include_str!("0008_listing.sql"),
    include_str!("0009_lists.sql"),
    include_str!("0010_owner.sql"),
];

/// Lowest schema version that a program must know to use the migrated tables.
const NEEDS_SCHEMA: i64 = 5;

/// Migrates a database to the current schema; returns the id of its store and the owner of its workers.
pub(super) async fn prepare(database: &Database, id: Uuid) -> Result<(StoreId, StoreId), OpenError> {
    let what = database.name();
    let mut turn = database
        .turn()
        .await
        .map_err(|error| OpenError::Database { what: what.clone(), why: error.to_string() })?;
    let failed = |error| open_error(&what, &error);
    is_fit(&mut turn, &what).await?;
    let known = known(&mut turn).await.map_err(failed)?;
    let present = MIGRATIONS.len() as i64;
    // Check first: a role that may only use the tables need not have the right to create them.
    if known.is_none_or(|(version, _, _)| version < present) {
        migrate(&mut turn, id).await.map_err(failed)?;
    }
    let (_, store, needs) = match known {
        Some(known) if known.0 >= present => known,
        _ => self::known(&mut turn).await.map_err(failed)?.ok_or_else(|| OpenError::Database {
            what: what.clone(),
            why: "its tables were created but cannot be found".into(),
        })?,
    };
    if needs > present {
        turn.end();
        return Err(OpenError::NewerDatabase { what, needs, knows: present });
    }
    let owner = incarnation::settle(database, &mut turn, id).await?;
    turn.end();
    Ok((StoreId::from_uuid(store), StoreId::from_uuid(owner)))
}

/// Rejects a database that cannot hold every text, because jobs may contain any.
async fn is_fit(turn: &mut Turn, what: &str) -> Result<(), OpenError> {
    let asked = turn.alone(sqlx::query("SELECT current_setting('server_encoding')")).await;
    let asked = asked.and_then(|rows| rows.first().map_or(Ok(None), |row| row.try_get(0)));
    let encoding: Option<String> = asked.map_err(|error| open_error(what, &error))?;
    match encoding {
        Some(encoding) if encoding != "UTF8" => Err(OpenError::Database {
            what: what.to_owned(),
            why: format!(
                "its encoding is {encoding}, but jobs need UTF8; create another database with `createdb \
                 --encoding UTF8 --template template0 NAME`"
            ),
        }),
        _ => Ok(()),
    }
}

/// Reads the schema version, the store's id, and the schema version that a program must know; `None` when there is no
/// store.
async fn known(turn: &mut Turn) -> Result<Option<(i64, Uuid, i64)>, sqlx::Error> {
    // Check first: a failed statement would make the connection unusable.
    let there = turn
        .alone(sqlx::query("SELECT to_regclass('hodei.store')::text, to_regclass('hodei.migrations')::text"))
        .await?;
    let is_there = |column| there.first().map_or(Ok(None), |row| row.try_get::<Option<String>, _>(column));
    if is_there(0)?.is_none() || is_there(1)?.is_none() {
        return Ok(None);
    }
    let sql = "SELECT (SELECT max(version) FROM hodei.migrations), store_id, needs FROM hodei.store";
    match turn.alone(sqlx::query(sql)).await {
        Ok(rows) => {
            rows.first().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).transpose()
        }
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Timeout of a migration, which may read every job of the history: about ten microseconds each.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(3600);

/// Runs the missing migrations in one transaction; daemons that start at once take turns.
async fn migrate(turn: &mut Turn, id: Uuid) -> Result<(), sqlx::Error> {
    turn.run(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
         SET LOCAL lock_timeout = '20s';
         SET LOCAL statement_timeout = 0;
         SET LOCAL enable_seqscan = on;
         SET LOCAL enable_hashjoin = on;
         SET LOCAL enable_mergejoin = on;
         SELECT pg_advisory_xact_lock(hashtextextended('hodei.migrations', 0));",
    )
    .await?;
    // `IF NOT EXISTS` requires the right to create a schema even if the schema exists.
    let schema = turn.rows(sqlx::query("SELECT 1 FROM pg_namespace WHERE nspname = 'hodei'")).await?;
    if schema.is_empty() {
        turn.run("CREATE SCHEMA hodei").await?;
    }
    turn.run("CREATE TABLE IF NOT EXISTS hodei.migrations (version bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())")
        .await?;
    let done = turn.rows(sqlx::query("SELECT coalesce(max(version), 0) FROM hodei.migrations")).await?;
    let done: i64 = done.first().map_or(Ok(0), |row| row.try_get(0))?;
    for (version, migration) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > done) {
        tracing::info!(version, "migrating the database; a long history takes minutes");
        turn.run_for(MIGRATION_TIMEOUT, migration).await?;
        turn.rows(sqlx::query("INSERT INTO hodei.migrations (version) VALUES ($1)").bind(version)).await?;
    }
    let sql = "INSERT INTO hodei.store (store_id, needs) VALUES ($1, $2) ON CONFLICT (only_row) DO UPDATE \
               SET needs = greatest(hodei.store.needs, excluded.needs)";
    turn.rows(sqlx::query(sql).bind(id).bind(NEEDS_SCHEMA)).await?;
    turn.run("COMMIT").await
}
