//! The end of an output that passed its limit: kept in memory until the attempt ends, and stored behind a gap then.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hodei_core::event::LogGap;
use hodei_core::port::LogRecord;
use hodei_core::time::Timestamp;

/// Bytes of the end of one output.
pub(crate) const TAIL_BYTES: u64 = 16 << 20;
/// Bytes of all ends together; beyond it each that grows gives up its own oldest.
const ALL_TAILS_BYTES: usize = 256 << 20;
/// Bytes that a record takes beside its output.
const RECORD_BYTES: usize = 96;

/// The bytes that all ends have together. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct TailBudget(Arc<AtomicUsize>);

/// The end of one output, and how much is missing before it.
#[derive(Debug)]
pub(crate) struct LogTail {
    budget: TailBudget,
    limit: u64,
    /// The number of the first record that is not stored.
    from: u64,
    /// The number after the last.
    next: u64,
    records: VecDeque<LogRecord>,
    bytes: u64,
    dropped_bytes: u64,
    /// Pieces are missing that never came: how long they were is unknown.
    has_holes: bool,
}

impl LogTail {
    /// An empty end of an output that is stored up to `from`, of `limit` bytes at most.
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

    /// The number of the next piece.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Takes a piece, and gives up the oldest for it.
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

    /// What is to be stored, without holes: gaps stand in their places. Also the first of them.
    pub(crate) fn finish(mut self, at: Timestamp) -> (Vec<LogRecord>, Option<LogGap>) {
        let (mut next, mut first) = (self.from, None);
        let records = self.take();
        let mut stored = Vec::with_capacity(records.len() + 1);
        for record in records {
            if record.sequence > next {
                // The first stands for what was dropped, and for it alone unless more is missing.
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
    record.bytes() + RECORD_BYTES
}

#[cfg(test)]
mod tests {
    use hodei_core::port::{LogBody, LogStream};

    use super::*;

    fn piece(sequence: u64, bytes: usize) -> LogRecord {
        let body = LogBody::Chunk { stream: LogStream::Stdout, bytes: vec![b'x'; bytes].into() };
        LogRecord { sequence, at: Timestamp::EPOCH, body }
    }

    fn finished(tail: LogTail) -> Vec<(u64, u64, usize)> {
        let (records, _) = tail.finish(Timestamp::EPOCH);
        records.iter().map(|record| (record.sequence, record.next(), record.bytes())).collect()
    }

    #[test]
    fn the_last_bytes_are_kept_behind_a_gap_with_the_number_of_the_others() {
        let budget = TailBudget::default();
        let mut tail = LogTail::new(&budget, 5, 250);
        (5..15).for_each(|sequence| tail.push(piece(sequence, 100)));
        assert_eq!(tail.next(), 15);
        let (records, gap) = tail.finish(Timestamp::EPOCH);
        assert_eq!(gap, Some(LogGap { from: 5, to: 13, bytes: 800 }));
        assert_eq!(records.len(), 3);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0, "all is given back");
    }

    #[test]
    fn an_output_that_passes_its_limit_by_little_is_whole() {
        let budget = TailBudget::default();
        let mut tail = LogTail::new(&budget, 5, 250);
        tail.push(piece(5, 100));
        tail.push(piece(6, 100));
        assert_eq!(finished(tail), [(5, 6, 100), (6, 7, 100)]);
    }

    #[test]
    fn pieces_that_never_came_are_gaps_of_unknown_length() {
        let budget = TailBudget::default();
        let mut tail = LogTail::new(&budget, 0, 250);
        tail.push(piece(2, 100));
        tail.push(piece(6, 100));
        let (records, gap) = tail.finish(Timestamp::EPOCH);
        assert_eq!(gap, Some(LogGap { from: 0, to: 2, bytes: 0 }));
        let numbers: Vec<_> = records.iter().map(|record| (record.sequence, record.next())).collect();
        assert_eq!(numbers, [(0, 2), (2, 3), (3, 6), (6, 7)]);
    }

    #[test]
    fn one_that_is_longer_than_the_limit_is_a_gap() {
        let budget = TailBudget::default();
        let mut tail = LogTail::new(&budget, 0, 50);
        tail.push(piece(0, 100));
        assert_eq!(finished(tail), [(0, 1, 0)]);
    }
}
