//! Log store in the database; each row holds several records.

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes};
use hodei_core::id::AttemptId;
use hodei_core::port::{LogEnd, LogError, LogRecord, LogState, LogStore, StoreError};
use hodei_core::time::Timestamp;
use uuid::Uuid;

use super::connection::Database;
use super::row;
use crate::storage::shared::{column, record};

/// The output of attempts, in the database of a [`PostgresStore`](super::PostgresStore), over connections of its own,
/// so that output does not delay state. Clones share it.
#[derive(Debug, Clone)]
pub struct PostgresLogStore {
    database: Database,
}

/// Maximum size of a row, unless a single record is larger.
const MAX_ROW_BYTES: usize = 256 << 10;
/// Maximum number of rows per query.
const MAX_PAGE_ROWS: i64 = 1024;
/// Attempts at an append that other writers overtake.
const MAX_ATTEMPTS: u32 = 16;

/// Records to store after the last stored one.
#[derive(Debug, Default)]
struct Addition {
    firsts: Vec<i64>,
    nexts: Vec<i64>,
    rows: Vec<Vec<u8>>,
    bytes: u64,
    next: u64,
    /// Why the remaining records are rejected.
    refused: Option<LogError>,
}

impl Addition {
    /// Selects the records that follow `state`.
    fn to(state: LogState, records: &[LogRecord]) -> Self {
        let mut addition = Self { next: state.next, ..Self::default() };
        for record in records {
            match record.taken_by(addition.next, state.end) {
                Ok(Some(record)) => addition.push(&record),
                Ok(None) => {}
                Err(refused) => {
                    addition.refused = Some(refused);
                    break;
                }
            }
        }
        addition
    }

    fn push(&mut self, record: &LogRecord) {
        let length = record.bytes() + HEADER_BYTES;
        if self.rows.last().is_none_or(|row| row.len() + length > MAX_ROW_BYTES) {
            self.firsts.push(column::int(record.sequence));
            self.nexts.push(0);
            self.rows.push(Vec::with_capacity(length));
        }
        if let (Some(row), Some(next)) = (self.rows.last_mut(), self.nexts.last_mut()) {
            encode(row, record);
            *next = column::int(record.next());
        }
        self.bytes += record.bytes() as u64;
        self.next = record.next();
    }
}

impl PostgresLogStore {
    pub(super) fn over(database: Database) -> Self {
        Self { database }
    }

    /// Stores an addition; false when the log does not, or no longer, end where the addition begins.
    async fn add(&self, attempt: AttemptId, from: u64, addition: &Addition) -> Result<bool, StoreError> {
        let (job, number) = key(attempt);
        // If a retry follows a broken connection and the first try was stored, the log has moved on and this returns
        // false.
        let query = || {
            sqlx::query(if from == 0 { INSERT_FIRST } else { INSERT_NEXT })
                .bind(job)
                .bind(number)
                .bind(column::int(addition.next))
                .bind(column::int(addition.bytes))
                .bind(column::int(from))
                .bind(&addition.firsts)
                .bind(&addition.nexts)
                .bind(&addition.rows)
        };
        let rows = self.database.read(query).await?;
        Ok(rows.first().map_or(Ok(0), |found| row::get::<i64>(found, 0))? == 1)
    }
}

/// $1 job, $2 attempt, $3 next and $4 bytes of the addition, $5 where it begins, $6 to $8 its rows.
const INSERT_FIRST: &str = "
    WITH told AS (INSERT INTO hodei.logs AS l (job, attempt, next, bytes) VALUES ($1, $2, $3, $4)
        ON CONFLICT (job, attempt) DO UPDATE SET next = excluded.next, bytes = l.bytes + excluded.bytes
        WHERE l.next = $5 AND l.ended IS NULL RETURNING 1),
    kept AS (INSERT INTO hodei.log_rows (job, attempt, first, next, records)
        SELECT $1, $2, n.* FROM told, unnest($6::bigint[], $7::bigint[], $8::bytea[]) n)
    SELECT count(*) FROM told";
const INSERT_NEXT: &str = "
    WITH told AS (UPDATE hodei.logs l SET next = $3, bytes = l.bytes + $4
        WHERE job = $1 AND attempt = $2 AND l.next = $5 AND l.ended IS NULL RETURNING 1),
    kept AS (INSERT INTO hodei.log_rows (job, attempt, first, next, records)
        SELECT $1, $2, n.* FROM told, unnest($6::bigint[], $7::bigint[], $8::bytea[]) n)
    SELECT count(*) FROM told";
/// Seals a torn log. $1 job, $2 attempt, $3 end.
const SEAL_TORN: &str = "
    INSERT INTO hodei.logs AS l (job, attempt, next, bytes, ended) VALUES ($1, $2, 0, 0, $3)
        ON CONFLICT (job, attempt) DO UPDATE SET ended = excluded.ended WHERE l.ended IS NULL";
/// Seals a complete log. The mark is not synced: the end of the job implies it, so a crash may lose the mark, and the
/// job's result need not share the disk.
const SEAL_COMPLETE: &str = "
    INSERT INTO hodei.logs AS l (job, attempt, next, bytes, ended)
        SELECT $1, $2, 0, 0, $3 FROM set_config('synchronous_commit', 'off', true)
        ON CONFLICT (job, attempt) DO UPDATE SET ended = excluded.ended WHERE l.ended IS NULL";
/// $1 job, $2 attempt, $3 from, $4 rows, $5 bytes before the last row.
const READ: &str = "
    SELECT records FROM (
        SELECT first, records, sum(octet_length(records)) OVER (ORDER BY first) - octet_length(records) AS before
        FROM hodei.log_rows WHERE job = $1 AND attempt = $2 AND next > $3 ORDER BY first LIMIT $4) page
    WHERE before < $5 ORDER BY first";

#[async_trait]
impl LogStore for PostgresLogStore {
    async fn append(&self, attempt: AttemptId, records: &[LogRecord]) -> Result<u64, LogError> {
        let Some(first) = records.first() else { return Ok(self.state(attempt).await?.next) };
        // Assume that the log ends where these records begin, which is nearly always true.
        let mut state = LogState { next: first.sequence, bytes: 0, end: None };
        let mut known = false;
        for _ in 0..MAX_ATTEMPTS {
            let addition = Addition::to(state, records);
            if !addition.rows.is_empty() && self.add(attempt, state.next, &addition).await? {
                return addition.refused.map_or(Ok(addition.next), Err);
            }
            if known && addition.rows.is_empty() {
                return addition.refused.map_or(Ok(addition.next), Err);
            }
            (state, known) = (self.state(attempt).await?, true);
        }
        let why = format!("other writers keep writing the log of attempt {attempt}");
        Err(StoreError::Unavailable { retry_after: std::time::Duration::from_secs(1), why }.into())
    }

    async fn seal(&self, attempt: AttemptId, end: LogEnd) -> Result<(), LogError> {
        let (job, number) = key(attempt);
        let end: i16 = if end == LogEnd::Complete { 0 } else { 1 };
        let query =
            || sqlx::query(if end == 0 { SEAL_COMPLETE } else { SEAL_TORN }).bind(job).bind(number).bind(end);
        self.database.read(query).await?;
        Ok(())
    }

    async fn read(
        &self,
        attempt: AttemptId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        let (job, number) = key(attempt);
        let mut records = Vec::new();
        let (mut from, mut left) = (from, max_bytes);
        loop {
            let query = || {
                let query =
                    sqlx::query(READ).bind(job).bind(number).bind(column::int(from)).bind(MAX_PAGE_ROWS);
                query.bind(column::int(left as u64).max(1))
            };
            let rows = self.database.read(query).await?;
            for found in &rows {
                // All records of the row share one copy.
                let mut bytes = Bytes::from(row::get::<Vec<u8>>(found, 0)?);
                while bytes.has_remaining() {
                    let record = decode(&mut bytes)?;
                    if record.next() > from && (records.is_empty() || left > 0) {
                        left = left.saturating_sub(record.bytes());
                        records.push(record);
                    }
                }
            }
            from = records.last().map_or(from, LogRecord::next);
            if left == 0 || (rows.len() as i64) < MAX_PAGE_ROWS {
                return Ok(records);
            }
        }
    }

    async fn state(&self, attempt: AttemptId) -> Result<LogState, LogError> {
        let (job, number) = key(attempt);
        let query = || {
            let sql = "SELECT next, bytes, ended FROM hodei.logs WHERE job = $1 AND attempt = $2";
            sqlx::query(sql).bind(job).bind(number)
        };
        let rows = self.database.read(query).await?;
        let Some(found) = rows.first() else { return Ok(LogState { next: 0, bytes: 0, end: None }) };
        let end = row::get::<Option<i16>>(found, 2)?;
        Ok(LogState {
            next: row::get::<i64>(found, 0)?.unsigned_abs(),
            bytes: row::get::<i64>(found, 1)?.unsigned_abs(),
            end: end.map(|end| if end == 0 { LogEnd::Complete } else { LogEnd::Torn }),
        })
    }

    async fn remove(&self, attempts: &[AttemptId]) -> Result<(), LogError> {
        let (jobs, numbers): (Vec<Uuid>, Vec<i64>) = attempts.iter().map(|attempt| key(*attempt)).unzip();
        let query = || {
            let sql = "WITH gone AS (SELECT * FROM unnest($1::uuid[], $2::bigint[]) g(job, attempt)), \
                       rows AS (DELETE FROM hodei.log_rows r USING gone g \
                           WHERE r.job = g.job AND r.attempt = g.attempt) \
                       DELETE FROM hodei.logs l USING gone g WHERE l.job = g.job AND l.attempt = g.attempt";
            sqlx::query(sql).bind(&jobs).bind(&numbers)
        };
        self.database.read(query).await?;
        Ok(())
    }
}

fn key(attempt: AttemptId) -> (Uuid, i64) {
    (attempt.job.as_uuid(), attempt.number.into())
}

/// Size of a record before its payload: kind, sequence, time, length.
const HEADER_BYTES: usize = 1 + 8 + 8 + 4;

fn encode(row: &mut Vec<u8>, record: &LogRecord) {
    let (kind, payload) = record::parts(record);
    row.put_u8(kind);
    row.put_u64_le(record.sequence);
    row.put_i64_le(record.at.as_micros());
    row.put_u32_le(payload.len() as u32);
    row.put_slice(&payload);
}

fn decode(row: &mut Bytes) -> Result<LogRecord, StoreError> {
    let damaged = || StoreError::Other("a stored row of job output is damaged".into());
    if row.remaining() < HEADER_BYTES {
        return Err(damaged());
    }
    let (kind, sequence, at) = (row.get_u8(), row.get_u64_le(), Timestamp::from_micros(row.get_i64_le()));
    let length = row.get_u32_le() as usize;
    if row.remaining() < length {
        return Err(damaged());
    }
    record::of(kind, sequence, at, row.split_to(length)).ok_or_else(damaged)
}
