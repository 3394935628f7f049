//! Output in the database: some records to a row.

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes};
use hodei_core::id::AttemptId;
use hodei_core::port::{LogEnd, LogError, LogRecord, LogState, LogStore, StoreError};
use hodei_core::time::Timestamp;
use uuid::Uuid;

use super::connection::Database;
use super::row;
use crate::storage::shared::{column, record};

/// The output of attempts, in the database of a [`PostgresStore`](super::PostgresStore), over connections of its own:
/// what jobs print keeps no state waiting. Clones share it.
#[derive(Debug, Clone)]
pub struct PostgresLogStore {
    database: Database,
}

/// Bytes of one row, unless a record alone has more.
const ROW: usize = 256 << 10;
/// Rows read at once.
const ROWS: i64 = 1024;
/// Tries at an append that others overtake.
const TRIES: u32 = 16;

/// Records as they would be stored after the last one that is there.
#[derive(Debug, Default)]
struct Addition {
    firsts: Vec<i64>,
    nexts: Vec<i64>,
    rows: Vec<Vec<u8>>,
    bytes: u64,
    next: u64,
    /// Why the others are not.
    refused: Option<LogError>,
}

impl Addition {
    /// Those of some records that follow `state`.
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
        let length = record.bytes() + HEADER;
        if self.rows.last().is_none_or(|row| row.len() + length > ROW) {
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

    /// Stores an addition; false when the log is not, or no longer, where it begins.
    async fn add(&self, attempt: AttemptId, from: u64, addition: &Addition) -> Result<bool, StoreError> {
        let (job, number) = key(attempt);
        // Made again when its connection breaks: then it finds the log further on.
        let query = || {
            sqlx::query(if from == 0 { BEGIN } else { CONTINUE })
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
const BEGIN: &str = "
    WITH told AS (INSERT INTO hodei.logs AS l (job, attempt, next, bytes) VALUES ($1, $2, $3, $4)
        ON CONFLICT (job, attempt) DO UPDATE SET next = excluded.next, bytes = l.bytes + excluded.bytes
        WHERE l.next = $5 AND l.ended IS NULL RETURNING 1),
    kept AS (INSERT INTO hodei.log_rows (job, attempt, first, next, records)
        SELECT $1, $2, n.* FROM told, unnest($6::bigint[], $7::bigint[], $8::bytea[]) n)
    SELECT count(*) FROM told";
const CONTINUE: &str = "
    WITH told AS (UPDATE hodei.logs l SET next = $3, bytes = l.bytes + $4
        WHERE job = $1 AND attempt = $2 AND l.next = $5 AND l.ended IS NULL RETURNING 1),
    kept AS (INSERT INTO hodei.log_rows (job, attempt, first, next, records)
        SELECT $1, $2, n.* FROM told, unnest($6::bigint[], $7::bigint[], $8::bytea[]) n)
    SELECT count(*) FROM told";
/// $1 job, $2 attempt, $3 how it ended.
const TEAR: &str = "
    INSERT INTO hodei.logs AS l (job, attempt, next, bytes, ended) VALUES ($1, $2, 0, 0, $3)
        ON CONFLICT (job, attempt) DO UPDATE SET ended = excluded.ended WHERE l.ended IS NULL";
/// The same of a log that is whole. It is stored beside the end of its job, which says as much: nobody misses a mark that
/// the database forgets in a crash, and the result has the disk to itself.
const COMPLETE: &str = "
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
        // As if the log were where these begin, which is nearly always so.
        let mut state = LogState { next: first.sequence, bytes: 0, end: None };
        let mut known = false;
        for _ in 0..TRIES {
            let addition = Addition::to(state, records);
            if !addition.rows.is_empty() && self.add(attempt, state.next, &addition).await? {
                return addition.refused.map_or(Ok(addition.next), Err);
            }
            if known && addition.rows.is_empty() {
                return addition.refused.map_or(Ok(addition.next), Err);
            }
            (state, known) = (self.state(attempt).await?, true);
        }
        let why = format!("the log of attempt {attempt} is written by others all the time");
        Err(StoreError::Unavailable { retry_after: std::time::Duration::from_secs(1), why }.into())
    }

    async fn seal(&self, attempt: AttemptId, end: LogEnd) -> Result<(), LogError> {
        let (job, number) = key(attempt);
        let end: i16 = if end == LogEnd::Complete { 0 } else { 1 };
        let query = || sqlx::query(if end == 0 { COMPLETE } else { TEAR }).bind(job).bind(number).bind(end);
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
                let query = sqlx::query(READ).bind(job).bind(number).bind(column::int(from)).bind(ROWS);
                query.bind(column::int(left as u64).max(1))
            };
            let rows = self.database.read(query).await?;
            for found in &rows {
                // One copy for all records of the row.
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
            if left == 0 || (rows.len() as i64) < ROWS {
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

/// Bytes of a record before its payload: kind, sequence, time, length.
const HEADER: usize = 1 + 8 + 8 + 4;

fn encode(row: &mut Vec<u8>, record: &LogRecord) {
    let (kind, payload) = record::parts(record);
    row.put_u8(kind);
    row.put_u64_le(record.sequence);
    row.put_i64_le(record.at.as_micros());
    row.put_u32_le(payload.len() as u32);
    row.put_slice(&payload);
}

fn decode(row: &mut Bytes) -> Result<LogRecord, StoreError> {
    let damaged = || StoreError::Other("a row of output is damaged".into());
    if row.remaining() < HEADER {
        return Err(damaged());
    }
    let (kind, sequence, at) = (row.get_u8(), row.get_u64_le(), Timestamp::from_micros(row.get_i64_le()));
    let length = row.get_u32_le() as usize;
    if row.remaining() < length {
        return Err(damaged());
    }
    record::of(kind, sequence, at, row.split_to(length)).ok_or_else(damaged)
}
