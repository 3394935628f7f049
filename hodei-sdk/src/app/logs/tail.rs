//! Tail of an output that exceeded its limit: kept in memory until the attempt ends, then stored behind a gap.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hodei_core::event::LogGap;
use hodei_core::port::LogRecord;
use hodei_core::time::Timestamp;

/// Largest tail of one output, in bytes.
pub(crate) const TAIL_BYTES: u64 = 16 << 20;
/// Bytes of all tails together. Beyond it, each tail that grows drops its own oldest records.
const ALL_TAILS_BYTES: usize = 256 << 20;
/// Memory that a record takes beside its output, in bytes.
const RECORD_OVERHEAD_BYTES: usize = 96;

/// Bytes that all tails hold together. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct TailBudget(Arc<AtomicUsize>);

/// Tail of one output, with the amount of output dropped before it.
#[derive(Debug)]
pub(crate) struct LogTail {
    budget: TailBudget,
    limit: u64,
    /// Sequence number of the first record that is not stored.
    from: u64,
    /// Sequence number after the last record.
    next: u64,
    records: VecDeque<LogRecord>,
    bytes: u64,
    dropped_bytes: u64,
    /// Whether records never arrived, so that the number of missing bytes is unknown.
    has_holes: bool,
}

impl LogTail {
    /// Creates an empty tail, of at most `limit` bytes, for an output that is stored up to `from`.
    pub(crate) fn new(budget: &TailBudget, from: u64, limit: u64) -> Self {
        Self {
            budget: budget.clone(),
            limit: limit.min(TAIL_BYTES),
            from,
            next: from,
            records: VecDeque::new(),
            bytes: 0,
            dropped_bytes: 0,
            has_holes: false,
        }
    }

    /// Returns the sequence number of the next record.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Adds a record, and drops the oldest ones while the tail exceeds its limit or the budget.
    pub(crate) fn push(&mut self, record: LogRecord) {
        self.has_holes |= record.sequence > self.next;
        self.next = record.next();
        self.bytes += record.bytes() as u64;
        let weight = weight(&record);
        let mut all = self.budget.0.fetch_add(weight, Ordering::Relaxed) + weight;
        self.records.push_back(record);
        while self.bytes > self.limit || (all > ALL_TAILS_BYTES && self.records.len() > 1) {
            let Some(oldest) = self.records.pop_front() else { return };
            self.bytes -= oldest.bytes() as u64;
            self.dropped_bytes += oldest.bytes() as u64;
            let weight = self::weight(&oldest);
            all = self.budget.0.fetch_sub(weight, Ordering::Relaxed) - weight;
        }
    }

    /// Returns the records to store, with gaps in place of missing ones, and the first gap.
    pub(crate) fn finish(mut self, at: Timestamp) -> (Vec<LogRecord>, Option<LogGap>) {
        let (mut next, mut first) = (self.from, None);
        let records = self.take();
        let mut stored = Vec::with_capacity(records.len() + 1);
        for record in records {
            if record.sequence > next {
                // The first gap covers the dropped records, and only those unless others never arrived.
                let is_known = first.is_none() && !self.has_holes;
                let bytes = if is_known { self.dropped_bytes } else { 0 };
                let gap = LogGap { from: next, to: record.sequence, bytes };
                first.get_or_insert(gap);
                stored.push(LogRecord::of_gap(gap, record.at));
            }
            next = record.next();
            stored.push(record);
        }
        if next < self.next {
            let bytes = if first.is_none() && !self.has_holes { self.dropped_bytes } else { 0 };
            let gap = LogGap { from: next, to: self.next, bytes };
            first.get_or_insert(gap);
            stored.push(LogRecord::of_gap(gap, at));
        }
        (stored, first)
    }

    fn take(&mut self) -> VecDeque<LogRecord> {
        let records = std::mem::take(&mut self.records);
        self.budget.0.fetch_sub(records.iter().map(weight).sum(), Ordering::Relaxed);
        records
    }
}

impl Drop for LogTail {
    fn drop(&mut self) {
        self.take();
    }
}

fn weight(record: &LogRecord) -> usize {
    record.bytes() + RECORD_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use hodei_core::port::{LogBody, LogStream};

    use super::*;

    fn record(sequence: u64, bytes: usize) -> LogRecord {
        let body = LogBody::Chunk { stream: LogStream::Stdout, bytes: vec![b'x'; bytes].into() };
        LogRecord { sequence, at: Timestamp::EPOCH, body }
    }

    fn finished(tail: LogTail) -> Vec<(u64, u64, usize)> {
        let (records, _) = tail.finish(Timestamp::EPOCH);
        records.iter().map(|record| (record.sequence, record.next(), record.bytes())).collect()
    }

    #[test]
    fn the_last_bytes_are_kept_behind_a_gap_that_counts_the_dropped_ones() {
        let budget = TailBudget::default();
        let mut tail = LogTail::new(&budget, 5, 250);
        (5..15).for_each(|sequence| tail.push(record(sequence, 100)));
        assert_eq!(tail.next(), 15);
        let (records, gap) = tail.finish(Timestamp::EPOCH);
        assert_eq!(gap, Some(LogGap { from: 5, to: 13, bytes: 800 }));
        assert_eq!(records.len(), 3);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0, "the budget is released");
    }

    #[test]
    fn an_output_that_exceeds_its_limit_slightly_is_whole() {
        let budget = TailBudget::default();
        let mut tail = LogTail::new(&budget, 5, 250);
        tail.push(record(5, 100));
        tail.push(record(6, 100));
        assert_eq!(finished(tail), [(5, 6, 100), (6, 7, 100)]);
    }

    #[test]
    fn records_that_never_arrived_are_gaps_of_unknown_length() {
        let budget = TailBudget::default();
        let mut tail = LogTail::new(&budget, 0, 250);
        tail.push(record(2, 100));
        tail.push(record(6, 100));
        let (records, gap) = tail.finish(Timestamp::EPOCH);
        assert_eq!(gap, Some(LogGap { from: 0, to: 2, bytes: 0 }));
        let numbers: Vec<_> = records.iter().map(|record| (record.sequence, record.next())).collect();
        assert_eq!(numbers, [(0, 2), (2, 3), (3, 6), (6, 7)]);
    }

    #[test]
    fn a_record_longer_than_the_limit_is_a_gap() {
        let budget = TailBudget::default();
        let mut tail = LogTail::new(&budget, 0, 50);
        tail.push(record(0, 100));
        assert_eq!(finished(tail), [(0, 1, 0)]);
    }
}
