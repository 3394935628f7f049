//! Which server and database the numbers of transactions come from, and what becomes of the feed when that changes.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::{Database, Turn, is_denied, open_error};
use crate::error::OpenError;

/// Added to the numbers of transactions at each change: more than a server uses up in its life, and less than a
/// half-millionth of what a column holds.
const STEP: i64 = 1 << 44;

/// The schema version that a program must know to read a store whose numbers are shifted.
const NEEDS: i64 = 7;

/// Settles which incarnation of its database a store is in. After a restore into another one, the numbers of transactions
/// begin lower, or pass again what was given before: they are shifted above all of it.
///
/// Returns the owner of its workers, which is `new` from a restore into another server or database on: the store that it
/// was copied from may go on, and each would end the workers of the other. A standby that became the primary keeps its own,
/// and so does a copy of the files of a server, which nothing tells from its original.
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
            "the store was restored into another database, or its server was replaced: events go on behind all that \
             were told before"
        );
    } else if known.incarnation.is_some() || present.is_none() {
        return Ok(known.owner);
    }
    let step = if has_changed { STEP } else { 0 };
    let query = sqlx::query(CHANGE).bind(&known.incarnation).bind(&present).bind(step);
    let query = query.bind(if has_changed { NEEDS } else { 0 }).bind(has_moved.then_some(new));
    turn.alone(query).await.map_err(failed)?;
    // Another daemon that started with this one may have changed it first.
    let known = Known::read(turn).await.map_err(failed)?;
    if has_moved {
        tracing::warn!(
            database = what,
            owner = %known.owner,
            "workers that the store of before left running are not its own"
        );
    }
    Ok(known.owner)
}

/// The server and the database in the name of an incarnation, without the timeline.
fn place_of(incarnation: &str) -> (Option<&str>, Option<&str>) {
    let mut parts = incarnation.split('/');
    (parts.next(), parts.nth(1))
}

#[derive(Default)]
struct Known {
    incarnation: Option<String>,
    /// There are events of transactions that this server has not begun yet.
    is_ahead: bool,
    owner: Uuid,
}

impl Known {
    async fn read(turn: &mut Turn) -> Result<Self, sqlx::Error> {
        let rows = turn.alone(sqlx::query(KNOWN)).await?;
        Ok(rows.first().map(Self::of).transpose()?.unwrap_or_default())
    }

    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { incarnation: row.try_get(0)?, is_ahead: row.try_get(1)?, owner: row.try_get(2)? })
    }
}

const KNOWN: &str = "SELECT incarnation, EXISTS (SELECT 1 FROM hodei.events \
    WHERE tx >= (pg_snapshot_xmax(pg_current_snapshot())::text::bigint + tx_offset)::text::xid8), \
    coalesce(owner, store_id) FROM hodei.store";

/// Of daemons that start at once, one changes it.
const CHANGE: &str = "UPDATE hodei.store SET incarnation = $2, tx_offset = tx_offset + $3, needs = greatest(needs, $4), \
    owner = coalesce($5, owner) WHERE incarnation IS NOT DISTINCT FROM $1";

/// The name of this incarnation; `None` where the role may not know.
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
