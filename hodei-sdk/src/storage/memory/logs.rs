//! Logs in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hodei_core::event::LogGap;
use hodei_core::id::AttemptId;
use hodei_core::port::{LogBody, LogEnd, LogError, LogRecord, LogState, LogStore};
use hodei_core::time::Timestamp;
use tokio::sync::Notify;

/// A log store in bounded memory: the oldest records of all attempts are dropped first, and reads return a gap record
/// in their place. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryLogStore {
    state: Arc<Mutex<State>>,
    /// Notified when a reader of a paced store advances.
    room: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    logs: BTreeMap<AttemptId, Log>,
    /// The attempt of each record, oldest first, to find the oldest record.
    order: VecDeque<AttemptId>,
    bytes: usize,
    limit: usize,
    paced: bool,
}

#[derive(Debug, Default)]
struct Log {
    records: VecDeque<LogRecord>,
    next: u64,
    bytes: u64,
    end: Option<LogEnd>,
    /// Sequence number up to which the log was read.
    read_to: u64,
    /// Bytes of the dropped records.
    dropped_bytes: u64,
}

impl Default for MemoryLogStore {
    fn default() -> Self {
        Self::with_limit(Self::LIMIT)
    }
}

impl MemoryLogStore {
    /// Default total size in bytes: 256 MiB.
    pub const LIMIT: usize = 256 << 20;

    /// Creates a store that keeps about `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        Self::new(limit, false)
    }

    /// Creates a store of about `limit` bytes that drops only records that were read. When it is full, writes wait for
    /// a reader, which slows a job that writes faster than its reader reads. Every log needs a reader then.
    pub fn paced(limit: usize) -> Self {
        Self::new(limit, true)
    }

    fn new(limit: usize, paced: bool) -> Self {
        let state = State { logs: BTreeMap::new(), order: VecDeque::new(), bytes: 0, limit, paced };
        Self { state: Arc::new(Mutex::new(state)), room: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LogStore for MemoryLogStore {
    async fn append(&self, attempt: AttemptId, records: &[LogRecord]) -> Result<u64, LogError> {
        loop {
            let room = self.room.notified();
            if self.lock().has_room() {
                return self.lock().append(attempt, records);
            }
            room.await;
        }
    }

    async fn seal(&self, attempt: AttemptId, end: LogEnd) -> Result<(), LogError> {
        self.lock().logs.entry(attempt).or_default().end.get_or_insert(end);
        Ok(())
    }

    async fn read(
        &self,
        attempt: AttemptId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        let mut state = self.lock();
        let Some(log) = state.logs.get_mut(&attempt) else { return Ok(Vec::new()) };
        log.read_to = log.read_to.max(from);
        self.room.notify_waiters();
        Ok(log.read(from, max_bytes))
    }

    async fn state(&self, attempt: AttemptId) -> Result<LogState, LogError> {
        let state = self.lock();
        let none = LogState { next: 0, bytes: 0, end: None };
        let state_of = |log: &Log| LogState { next: log.next, bytes: log.bytes, end: log.end };
        Ok(state.logs.get(&attempt).map_or(none, state_of))
    }

    async fn remove(&self, attempts: &[AttemptId]) -> Result<(), LogError> {
        let mut state = self.lock();
        for attempt in attempts {
            let records = state.logs.remove(attempt).map(|log| log.records).unwrap_or_default();
            state.bytes -= records.iter().map(weight).sum::<usize>();
        }
        let State { order, logs, .. } = &mut *state;
        order.retain(|attempt| logs.contains_key(attempt));
        Ok(())
    }
}

impl State {
    fn append(&mut self, attempt: AttemptId, records: &[LogRecord]) -> Result<u64, LogError> {
        let log = self.logs.entry(attempt).or_default();
        for record in records {
            let Some(record) = record.taken_by(log.next, log.end)? else { continue };
            log.next = record.next();
            log.bytes += record.bytes() as u64;
            self.bytes += weight(&record);
            log.records.push_back(record);
            self.order.push_back(attempt);
        }
        let next = log.next;
        while !self.paced && self.bytes > self.limit && self.drop_oldest() {}
        Ok(next)
    }

    /// Returns whether more may be written; a paced store drops read records to make room.
    fn has_room(&mut self) -> bool {
        while self.paced && self.bytes > self.limit {
            let oldest = self.order.front().and_then(|attempt| self.logs.get(attempt));
            let was_read = |log: &Log| log.records.front().is_none_or(|record| record.next() <= log.read_to);
            if !oldest.is_some_and(was_read) || !self.drop_oldest() {
                return false;
            }
        }
        true
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(attempt) = self.order.pop_front() else { return false };
        if let Some(log) = self.logs.get_mut(&attempt)
            && let Some(record) = log.records.pop_front()
        {
            self.bytes -= weight(&record);
            log.dropped_bytes += match &record.body {
                LogBody::Chunk { bytes, .. } => bytes.len() as u64,
                LogBody::Gap(gap) => gap.bytes,
            };
        }
        true
    }
}

impl Log {
    fn read(&self, from: u64, max_bytes: usize) -> Vec<LogRecord> {
        let mut found = Vec::new();
        let kept_from = self.records.front().map_or(self.next, |record| record.sequence);
        if from < kept_from {
            let at = self.records.front().map_or(Timestamp::EPOCH, |record| record.at);
            // The number of dropped bytes after a later position is unknown.
            let bytes = if from == 0 { self.dropped_bytes } else { 0 };
            found.push(LogRecord::of_gap(LogGap { from, to: kept_from, bytes }, at));
        }
        let first = self.records.partition_point(|record| record.next() <= from);
        let mut bytes = 0;
        for record in self.records.range(first..) {
            if bytes >= max_bytes && !found.is_empty() {
                break;
            }
            bytes += weight(record);
            found.push(record.clone());
        }
        found
    }
}

/// Returns the approximate memory use of a record in bytes.
fn weight(record: &LogRecord) -> usize {
    record.bytes() + 96
}
