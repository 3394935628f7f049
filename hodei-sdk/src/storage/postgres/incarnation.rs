//! Incarnation of a database: the server and database whose transaction numbers the feed uses, and the shift of these
//! numbers after a restore.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::{Database, Turn, is_denied, open_error};
use crate::error::OpenError;

/// Added to transaction numbers at each change: more than a server uses in its life, and less than half a millionth of
/// the range of a column.
const TX_SHIFT: i64 = 1 << 44;

/// Schema version that a program must know to read a store with shifted numbers.
const NEEDS_SCHEMA: i64 = 7;

/// Determines the incarnation of the database. After a restore into another one, transaction numbers start lower or
/// repeat, so they are shifted above all earlier ones.
///
/// Returns the owner of the store's workers. The owner becomes `new` after a restore into another server or database:
/// the original store may still run, and each would end the other's workers. A standby that became the primary keeps
/// its owner; so does a copy of a server's files, which cannot be told from its original.
pub(super) async fn settle(database: &Database, turn: &mut Turn, new: Uuid) -> Result<Uuid, OpenError> {
    let what = database.name();
    let failed = |error: sqlx::Error| open_error(&what, &error);
    let present = present(database, turn).await?;
    let known = Known::read(turn).await.map_err(failed)?;
    let has_moved = match (&known.incarnation, &present) {
        (Some(known), Some(present)) => place_of(known) != place_of(present),
        _ => false,
    };
    let has_changed = match (&known.incarnation, &present) {
        (Some(known), Some(present)) => known != present,
        _ => known.is_ahead,
    };
    if has_changed {
        tracing::warn!(
            database = what,
            "the store was restored into another database, or its server was replaced; new events follow all \
             earlier ones"
        );
    } else if known.incarnation.is_some() || present.is_none() {
        return Ok(known.owner);
    }
    let step = if has_changed { TX_SHIFT } else { 0 };
    let query = sqlx::query(UPDATE_INCARNATION).bind(&known.incarnation).bind(&present).bind(step);
    let query = query.bind(if has_changed { NEEDS_SCHEMA } else { 0 }).bind(has_moved.then_some(new));
    turn.alone(query).await.map_err(failed)?;
    // Another daemon that started at the same time may have changed it first.
    let known = Known::read(turn).await.map_err(failed)?;
    if has_moved {
        tracing::warn!(
            database = what,
            owner = %known.owner,
            "workers of the original store do not belong to this store"
        );
    }
    Ok(known.owner)
}

/// Returns the server and the database in an incarnation's name, without the timeline.
fn place_of(incarnation: &str) -> (Option<&str>, Option<&str>) {
    let mut parts = incarnation.split('/');
    (parts.next(), parts.nth(1))
}

#[derive(Default)]
struct Known {
    incarnation: Option<String>,
    /// True when there are events of transactions that this server has not begun yet.
    is_ahead: bool,
    owner: Uuid,
}

impl Known {
    async fn read(turn: &mut Turn) -> Result<Self, sqlx::Error> {
        let rows = turn.alone(sqlx::query(SELECT_KNOWN)).await?;
        Ok(rows.first().map(Self::of).transpose()?.unwrap_or_default())
    }

    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { incarnation: row.try_get(0)?, is_ahead: row.try_get(1)?, owner: row.try_get(2)? })
    }
}

const SELECT_KNOWN: &str = "SELECT incarnation, EXISTS (SELECT 1 FROM hodei.events \
    WHERE tx >= (pg_snapshot_xmax(pg_current_snapshot())::text::bigint + tx_offset)::text::xid8), \
    coalesce(owner, store_id) FROM hodei.store";

/// Changes the incarnation; when several daemons start at once, only one of them does.
const UPDATE_INCARNATION: &str = "UPDATE hodei.store SET incarnation = $2, tx_offset = tx_offset + $3, needs = greatest(needs, $4), \
    owner = coalesce($5, owner) WHERE incarnation IS NOT DISTINCT FROM $1";

/// Returns the name of the current incarnation; `None` when the role may not read it.
async fn present(database: &Database, turn: &mut Turn) -> Result<Option<String>, OpenError> {
    let sql = "SELECT (SELECT system_identifier::text FROM pg_control_system()) || '/' || \
               (SELECT timeline_id::text FROM pg_control_checkpoint()) || '/' || \
               (SELECT oid::text FROM pg_database WHERE datname = current_database())";
    match turn.alone(sqlx::query(sql)).await {
        Ok(rows) => {
            let name = rows.first().map_or(Ok(None), |row| row.try_get(0));
            name.map_err(|error| open_error(&database.name(), &error))
        }
        Err(error) if is_denied(&error) => Ok(None),
        Err(error) => Err(open_error(&database.name(), &error)),
    }
}
