//! Which server and database the numbers of transactions come from, and what becomes of the feed when that changes.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::connection::{Database, Turn, is_denied, open_error};
use crate::error::OpenError;

/// Added to the numbers of transactions at each change: more than a server uses up in its life, and less than a
/// half-millionth of what a column holds.
const STEP: i64 = 1 << 44;

/// The schema version that a program must know to read a store whose numbers are shifted.
const NEEDS: i64 = 7;

/// Settles which incarnation of its database a store is in. After a restore into another one, the numbers of transactions
/// begin lower, or pass again what was given before: they are shifted above all of it.
pub(super) async fn settle(database: &Database, turn: &mut Turn) -> Result<(), OpenError> {
    let what = database.name();
    let failed = |error: sqlx::Error| open_error(&what, &error);
    let present = present(database, turn).await?;
    let known = turn.alone(sqlx::query(KNOWN)).await.map_err(failed)?;
    let known = known.first().map(Known::of).transpose().map_err(failed)?.unwrap_or_default();
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
        return Ok(());
    }
    let step = if has_changed { STEP } else { 0 };
    let query = sqlx::query(CHANGE).bind(&known.incarnation).bind(&present).bind(step);
    turn.alone(query.bind(if has_changed { NEEDS } else { 0 })).await.map(drop).map_err(failed)
}

#[derive(Default)]
struct Known {
    incarnation: Option<String>,
    /// There are events of transactions that this server has not begun yet.
    is_ahead: bool,
}

impl Known {
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { incarnation: row.try_get(0)?, is_ahead: row.try_get(1)? })
    }
}

const KNOWN: &str = "SELECT incarnation, EXISTS (SELECT 1 FROM hodei.events \
    WHERE tx >= (pg_snapshot_xmax(pg_current_snapshot())::text::bigint + tx_offset)::text::xid8) FROM hodei.store";

/// Of daemons that start at once, one changes it.
const CHANGE: &str = "UPDATE hodei.store SET incarnation = $2, tx_offset = tx_offset + $3, needs = greatest(needs, $4) \
    WHERE incarnation IS NOT DISTINCT FROM $1";

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
