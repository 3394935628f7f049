//! Making the tables, and who may use them.

use std::time::Duration;

use hodei_core::id::StoreId;
use sqlx::Row;
use uuid::Uuid;

use super::connection::{Database, Turn, is_missing, open_error};
use super::incarnation;
use crate::error::OpenError;

/// The migrations, in order; the schema version is their number. A change that older programs cannot work with
/// raises `hodei.store.needs` to its version: expand first, contract in a later release.
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

/// The lowest schema version that a program must know to use what these migrations make.
const NEEDS: i64 = 5;

/// Brings a database to the present schema and returns the id of its store, and the owner of its workers.
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
    // Looked at first: a role that may only use the tables needs no right to make them.
    if known.is_none_or(|(version, _, _)| version < present) {
        migrate(&mut turn, id).await.map_err(failed)?;
    }
    let (_, store, needs) = match known {
        Some(known) if known.0 >= present => known,
        _ => self::known(&mut turn).await.map_err(failed)?.ok_or_else(|| OpenError::Database {
            what: what.clone(),
            why: "its tables were made and are not there".into(),
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

/// Refuses a database that cannot hold every text: jobs have any.
async fn is_fit(turn: &mut Turn, what: &str) -> Result<(), OpenError> {
    let asked = turn.alone(sqlx::query("SELECT current_setting('server_encoding')")).await;
    let asked = asked.and_then(|rows| rows.first().map_or(Ok(None), |row| row.try_get(0)));
    let encoding: Option<String> = asked.map_err(|error| open_error(what, &error))?;
    match encoding {
        Some(encoding) if encoding != "UTF8" => Err(OpenError::Database {
            what: what.to_owned(),
            why: format!(
                "its encoding is {encoding}, and jobs have texts that only UTF8 has; make one with `createdb \
                 --encoding UTF8 --template template0 NAME`"
            ),
        }),
        _ => Ok(()),
    }
}

/// The schema version, the store's id, and what a program must know; `None` where there is no store.
async fn known(turn: &mut Turn) -> Result<Option<(i64, Uuid, i64)>, sqlx::Error> {
    // Asked first: a statement that fails would leave the connection behind.
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

/// A migration looks at each job of the history, if it has to: some ten microseconds for each.
const MIGRATION: Duration = Duration::from_secs(3600);

/// Runs what is missing, in one transaction; daemons that start at once take turns.
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
    // `IF NOT EXISTS` asks for the right to make a schema even where there is one.
    let schema = turn.rows(sqlx::query("SELECT 1 FROM pg_namespace WHERE nspname = 'hodei'")).await?;
    if schema.is_empty() {
        turn.run("CREATE SCHEMA hodei").await?;
    }
    turn.run("CREATE TABLE IF NOT EXISTS hodei.migrations (version bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())")
        .await?;
    let done = turn.rows(sqlx::query("SELECT coalesce(max(version), 0) FROM hodei.migrations")).await?;
    let done: i64 = done.first().map_or(Ok(0), |row| row.try_get(0))?;
    for (version, migration) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > done) {
        tracing::info!(version, "migrating the database: a long history takes minutes");
        turn.run_for(MIGRATION, migration).await?;
        turn.rows(sqlx::query("INSERT INTO hodei.migrations (version) VALUES ($1)").bind(version)).await?;
    }
    let sql = "INSERT INTO hodei.store (store_id, needs) VALUES ($1, $2) ON CONFLICT (only_row) DO UPDATE \
               SET needs = greatest(hodei.store.needs, excluded.needs)";
    turn.rows(sqlx::query(sql).bind(id).bind(NEEDS)).await?;
    turn.run("COMMIT").await
}
