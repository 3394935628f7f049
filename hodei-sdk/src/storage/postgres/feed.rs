//! The events of all in one order, while others still write.
//!
//! An event is shown once every transaction that began before its own has ended: a reader that goes on behind it misses
//! none. Transactions of other databases of the server have numbers of the same row, and write no event: they are passed
//! over.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use hodei_core::port::{FeedCursor, FeedPage, StoreError};
use hodei_core::time::Timestamp;
use sqlx::postgres::PgRow;

use super::connection::Database;
use super::row;
use crate::storage::shared::column;
use crate::storage::shared::pages::FEED_PAGE_BYTES;

/// A feed that hides an event for longer than this is held up: who does it is looked at.
const HELD_UP: Duration = Duration::from_millis(500);
/// It is named in the log after this.
const NAMED_AFTER: Duration = Duration::from_secs(3);
/// And again after this.
const NAMED_AGAIN: Duration = Duration::from_secs(60);

/// When a transaction that holds the feed up was named last, in microseconds of the clock.
#[derive(Debug, Default)]
pub(super) struct LastNamed(AtomicI64);

/// The columns of [`row::envelope`], and the place of each event, up to a number of bytes.
const PAGE: &str = "
    SELECT sequence, id, kind, aggregate, version, correlation, causation, actor, at, schema, event, tx::text AS place
    FROM (SELECT *, sum(octet_length(event)) OVER (ORDER BY tx, sequence) AS bytes,
                 row_number() OVER (ORDER BY tx, sequence) AS number
          FROM (SELECT * FROM hodei.events WHERE (tx, sequence) > ($1::text::xid8, $2) AND tx < $5::text::xid8
                ORDER BY tx, sequence LIMIT $3) page) sized
    WHERE bytes <= $4 OR number = 1 ORDER BY tx, sequence";

/// The first transaction that may still be open, and the first that has not ended yet of all that come, as `tx` has them.
const HORIZON: &str = "
    SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + tx_offset)::text,
        (pg_snapshot_xmax(pg_current_snapshot())::text::bigint + tx_offset)::text FROM hodei.store";

/// The transactions that are open, the oldest first, each with who it is.
const OPEN: &str = "
    SELECT (x.xid::text::bigint + tx_offset)::text,
        coalesce(a.datid <> own.oid, p.database <> current_database(), false),
        coalesce(CASE WHEN a.pid IS NOT NULL THEN format('process %s of the database `%s` (user %s, application `%s`, %s for %s s)', a.pid, a.datname,
            a.usename, a.application_name, a.state, round(extract(epoch FROM clock_timestamp() - a.xact_start))) END,
            CASE WHEN p.gid IS NOT NULL THEN
                format('the prepared transaction `%s` of the database `%s`', p.gid, p.database) END,
            'transaction ' || x.xid::text)
    FROM hodei.store, (SELECT oid FROM pg_database WHERE datname = current_database()) own,
        pg_snapshot_xip(pg_current_snapshot()) x(xid)
        LEFT JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock'
            AND l.transactionid = x.xid::xid
        LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        LEFT JOIN pg_prepared_xacts p ON p.transaction = x.xid::xid
    ORDER BY x.xid";

/// The next events behind a place: see the port.
pub(super) async fn page(
    database: &Database,
    named: &LastNamed,
    after: &FeedCursor,
    limit: usize,
) -> Result<FeedPage, StoreError> {
    let (tx, sequence) = row::place(after)?;
    let Horizon { hidden, newest } = horizon(database).await?;
    if tx > newest {
        // Of a database that was further than this one is: what comes next here was told there as something else.
        return Err(StoreError::Cursor);
    }
    let found = events(database, after, (tx, sequence), limit, hidden).await?;
    if !found.events.is_empty() {
        return Ok(found);
    }
    let Some(since) = hidden_since(database, tx, sequence).await? else { return Ok(found) };
    let lag = database.now().since(since);
    if lag < HELD_UP {
        return Ok(found);
    }
    let open = open_transactions(database).await?;
    if open.first_own > hidden {
        return events(database, after, (tx, sequence), limit, open.first_own).await;
    }
    if lag > NAMED_AFTER {
        named.name(database.now(), &open.who, lag);
    }
    Ok(found)
}

/// The place behind all that the feed shows now.
pub(super) async fn end(database: &Database) -> Result<FeedCursor, StoreError> {
    Ok(row::before(&horizon(database).await?.hidden.to_string()))
}

/// How old the oldest event is that the feed does not show.
pub(super) async fn lag(database: &Database, now: Timestamp) -> Result<Duration, StoreError> {
    let Horizon { hidden, .. } = horizon(database).await?;
    let before = |hidden: u64| hidden_since(database, hidden, 0);
    let Some(since) = before(hidden).await? else { return Ok(Duration::ZERO) };
    if now.since(since) < HELD_UP {
        return Ok(now.since(since));
    }
    let open = open_transactions(database).await?;
    Ok(before(open.first_own).await?.map_or(Duration::ZERO, |since| now.since(since)))
}

async fn events(
    database: &Database,
    after: &FeedCursor,
    (tx, sequence): (u64, i64),
    limit: usize,
    below: u64,
) -> Result<FeedPage, StoreError> {
    let query = || {
        let query = sqlx::query(PAGE).bind(tx.to_string()).bind(sequence).bind(column::int(limit as u64));
        query.bind(FEED_PAGE_BYTES as i64).bind(below.to_string())
    };
    let rows = database.read(query).await?;
    let events = rows.iter().map(row::envelope).collect::<Result<_, _>>()?;
    let next = rows.last().map(row::cursor).transpose()?.unwrap_or_else(|| after.clone());
    Ok(FeedPage { events, next })
}

/// Which transactions are over.
#[derive(Clone, Copy)]
struct Horizon {
    /// The first that may still be open.
    hidden: u64,
    /// Behind the last that ended.
    newest: u64,
}

async fn horizon(database: &Database) -> Result<Horizon, StoreError> {
    let rows = database.read(|| sqlx::query(HORIZON)).await?;
    let found = rows.first().ok_or_else(|| StoreError::Other("the store has lost its row".into()))?;
    Ok(Horizon { hidden: number(found, 0)?, newest: number(found, 1)? })
}

/// When the first event behind a place happened, shown or not.
async fn hidden_since(database: &Database, tx: u64, sequence: i64) -> Result<Option<Timestamp>, StoreError> {
    let query = || {
        let sql = "SELECT at FROM hodei.events WHERE (tx, sequence) > ($1::text::xid8, $2) \
                   ORDER BY tx, sequence LIMIT 1";
        sqlx::query(sql).bind(tx.to_string()).bind(sequence)
    };
    let rows = database.read(query).await?;
    rows.first().map(|found| row::get(found, 0).map(Timestamp::from_micros)).transpose()
}

/// Who writes.
struct OpenTransactions {
    /// The first transaction that may be of this database.
    first_own: u64,
    /// Who it is.
    who: String,
}

/// Looks at who writes; where nobody of this database does, all up to the newest is shown. What is shown by this is read
/// by a later look, which finds all that ended before.
async fn open_transactions(database: &Database) -> Result<OpenTransactions, StoreError> {
    // Before the others: one that begins in between is not passed over.
    let newest = horizon(database).await?.newest;
    for found in &database.read(|| sqlx::query(OPEN)).await? {
        let (first_own, is_elsewhere, who) =
            (number(found, 0)?, row::get::<bool>(found, 1)?, row::get(found, 2)?);
        if !is_elsewhere {
            return Ok(OpenTransactions { first_own: first_own.min(newest), who });
        }
    }
    Ok(OpenTransactions { first_own: newest, who: String::new() })
}

fn number(found: &PgRow, column: usize) -> Result<u64, StoreError> {
    row::get::<&str>(found, column)?.parse().map_err(|error| StoreError::Other(Box::new(error)))
}

impl LastNamed {
    fn name(&self, now: Timestamp, who: &str, lag: Duration) {
        let last = self.0.load(Ordering::Relaxed);
        if last > 0 && now.since(Timestamp::from_micros(last)) < NAMED_AGAIN {
            return;
        }
        self.0.store(now.as_micros(), Ordering::Relaxed);
        tracing::warn!(
            transaction = who,
            ?lag,
            "a transaction that is open holds up the events of all: end it, or wait for it. No job waits"
        );
    }
}
