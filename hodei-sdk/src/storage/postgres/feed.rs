//! The feed of all events in one order, with concurrent writers.
//!
//! An event is visible once every transaction that began before its own has ended, so that a reader that continues
//! after it misses none. Transactions of other databases on the server share the sequence of transaction numbers, but
//! write no events; the feed ignores them.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use hodei_core::port::{FeedCursor, FeedPage, StoreError};
use hodei_core::time::Timestamp;
use sqlx::postgres::PgRow;

use super::connection::Database;
use super::row;
use crate::storage::shared::column;
use crate::storage::shared::pages::FEED_PAGE_BYTES;

/// Time that an event may be hidden before the feed looks for the transaction that blocks it.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// Time that an event may be hidden before the blocking transaction is logged.
const LOG_AFTER: Duration = Duration::from_secs(3);
/// Interval between two such log entries.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Time of the last log entry about a blocking transaction, in microseconds.
#[derive(Debug, Default)]
pub(super) struct LastLogged(AtomicI64);

/// Selects the columns of [`row::envelope`] and the position of each event, up to a number of bytes.
const SELECT_PAGE: &str = "
    SELECT sequence, id, kind, aggregate, version, correlation, causation, actor, at, schema, event, tx::text AS place
    FROM (SELECT *, sum(octet_length(event)) OVER (ORDER BY tx, sequence) AS bytes,
                 row_number() OVER (ORDER BY tx, sequence) AS number
          FROM (SELECT * FROM hodei.events WHERE (tx, sequence) > ($1::text::xid8, $2) AND tx < $5::text::xid8
                ORDER BY tx, sequence LIMIT $3) page) sized
    WHERE bytes <= $4 OR number = 1 ORDER BY tx, sequence";

/// Selects the first transaction that may still be open, and one past the last that ended, in the numbering of `tx`.
const SELECT_HORIZON: &str = "
    SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + tx_offset)::text,
        (pg_snapshot_xmax(pg_current_snapshot())::text::bigint + tx_offset)::text FROM hodei.store";

/// Selects the open transactions, oldest first, each with a description of its session.
const SELECT_OPEN_TRANSACTIONS: &str = "
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

/// Returns the next events after a position: see the port.
pub(super) async fn page(
    database: &Database,
    last_logged: &LastLogged,
    after: &FeedCursor,
    limit: usize,
) -> Result<FeedPage, StoreError> {
    let (tx, sequence) = row::place(after)?;
    let Horizon { hidden, newest } = horizon(database).await?;
    if tx > newest {
        // The cursor comes from a database that was ahead of this one, where the next numbers belonged to other events.
        return Err(StoreError::Cursor);
    }
    let found = events(database, after, (tx, sequence), limit, hidden).await?;
    if !found.events.is_empty() {
        return Ok(found);
    }
    let Some(since) = hidden_since(database, tx, sequence).await? else { return Ok(found) };
    let lag = database.now().since(since);
    if lag < LOOK_AFTER {
        return Ok(found);
    }
    let open = open_transactions(database).await?;
    if open.first_own > hidden {
        return events(database, after, (tx, sequence), limit, open.first_own).await;
    }
    if lag > LOG_AFTER {
        last_logged.log(database.now(), &open.who, lag);
    }
    Ok(found)
}

/// Returns the position after all visible events.
pub(super) async fn end(database: &Database) -> Result<FeedCursor, StoreError> {
    Ok(row::before(&horizon(database).await?.hidden.to_string()))
}

/// Returns the age of the oldest hidden event.
pub(super) async fn lag(database: &Database, now: Timestamp) -> Result<Duration, StoreError> {
    let Horizon { hidden, .. } = horizon(database).await?;
    let before = |hidden: u64| hidden_since(database, hidden, 0);
    let Some(since) = before(hidden).await? else { return Ok(Duration::ZERO) };
    if now.since(since) < LOOK_AFTER {
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
        let query =
            sqlx::query(SELECT_PAGE).bind(tx.to_string()).bind(sequence).bind(column::int(limit as u64));
        query.bind(FEED_PAGE_BYTES as i64).bind(below.to_string())
    };
    let rows = database.read(query).await?;
    let events = rows.iter().map(row::envelope).collect::<Result<_, _>>()?;
    let next = rows.last().map(row::cursor).transpose()?.unwrap_or_else(|| after.clone());
    Ok(FeedPage { events, next })
}

/// The boundary between ended and open transactions.
#[derive(Clone, Copy)]
struct Horizon {
    /// The first transaction that may still be open.
    hidden: u64,
    /// One past the last transaction that ended.
    newest: u64,
}

async fn horizon(database: &Database) -> Result<Horizon, StoreError> {
    let rows = database.read(|| sqlx::query(SELECT_HORIZON)).await?;
    let found = rows.first().ok_or_else(|| StoreError::Other("the table hodei.store is empty".into()))?;
    Ok(Horizon { hidden: number(found, 0)?, newest: number(found, 1)? })
}

/// Returns the time of the first event after a position, visible or hidden.
async fn hidden_since(database: &Database, tx: u64, sequence: i64) -> Result<Option<Timestamp>, StoreError> {
    let query = || {
        let sql = "SELECT at FROM hodei.events WHERE (tx, sequence) > ($1::text::xid8, $2) \
                   ORDER BY tx, sequence LIMIT 1";
        sqlx::query(sql).bind(tx.to_string()).bind(sequence)
    };
    let rows = database.read(query).await?;
    rows.first().map(|found| row::get(found, 0).map(Timestamp::from_micros)).transpose()
}

/// Open transactions of this database.
struct OpenTransactions {
    /// The first open transaction that may belong to this database.
    first_own: u64,
    /// Description of its session.
    who: String,
}

/// Looks up the open transactions. If none belongs to this database, every event up to the newest is visible. A later
/// query reads the events, and so finds all transactions that ended before this look-up.
async fn open_transactions(database: &Database) -> Result<OpenTransactions, StoreError> {
    // Read this first, so that a transaction that begins in between is not skipped.
    let newest = horizon(database).await?.newest;
    for found in &database.read(|| sqlx::query(SELECT_OPEN_TRANSACTIONS)).await? {
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

impl LastLogged {
    fn log(&self, now: Timestamp, who: &str, lag: Duration) {
        let last = self.0.load(Ordering::Relaxed);
        if last > 0 && now.since(Timestamp::from_micros(last)) < LOG_INTERVAL {
            return;
        }
        self.0.store(now.as_micros(), Ordering::Relaxed);
        tracing::warn!(
            transaction = who,
            ?lag,
            "an open transaction delays the event feed: end it, or wait for it. Jobs are not delayed"
        );
    }
}
