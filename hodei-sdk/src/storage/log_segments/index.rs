//! Index of log segments: which records lie where.

use std::collections::BTreeMap;
use std::sync::Arc;

use hodei_core::id::AttemptId;
use hodei_core::port::{LogEnd, LogRecord, LogState};

use super::cold::ColdSegment;

/// Locations of all records. Memory holds every extent of the active segment, but of each closed segment only the range
/// of its attempts; the rest is in its index file.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Attempts with records in the active segment, or without an end.
    pub(super) logs: BTreeMap<AttemptId, Log>,
    pub(super) cold: BTreeMap<u32, Arc<ColdSegment>>,
}

/// State and location of one log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) next: u64,
    pub(super) bytes: u64,
    pub(super) end: Option<LogEnd>,
    /// Extents of its records in the active segment.
    pub(super) extents: Vec<Extent>,
}

/// Consecutive records of one attempt in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Sequence number of the first record.
    pub(super) first: u64,
    /// Sequence number after the last record.
    pub(super) next: u64,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// Extents of this size do not grow, because a read starts at the beginning of an extent.
const MAX_EXTENT_BYTES: u32 = 256 << 10;

impl Log {
    pub(super) fn state(&self) -> LogState {
        LogState { next: self.next, bytes: self.bytes, end: self.end }
    }

    /// Adds a record whose frame lies at `offset`.
    pub(super) fn record(&mut self, record: &LogRecord, offset: u64, length: usize) {
        let (offset, length) = (offset as u32, length as u32);
        match self.extents.last_mut() {
            Some(last)
                if last.offset + last.length == offset
                    && last.next == record.sequence
                    && last.length < MAX_EXTENT_BYTES =>
            {
                last.next = record.next();
                last.length += length;
            }
            _ => self.extents.push(Extent { first: record.sequence, next: record.next(), offset, length }),
        }
        self.next = record.next();
        self.bytes += record.bytes() as u64;
    }
}

impl Index {
    /// Returns the log of an attempt; reads index files if it must.
    pub(super) fn find(&self, attempt: AttemptId) -> Log {
        if let Some(log) = self.logs.get(&attempt) {
            return log.clone();
        }
        let state = self.cold.values().rev().find_map(|segment| segment.state(attempt));
        state.map_or_else(Log::default, |state| Log {
            next: state.next,
            bytes: state.bytes,
            end: state.end,
            extents: Vec::new(),
        })
    }

    /// Returns the closed segments that may have records of an attempt, oldest first.
    pub(super) fn cold_of(&self, attempt: AttemptId) -> Vec<Arc<ColdSegment>> {
        self.cold.values().filter(|segment| segment.may_have(attempt)).cloned().collect()
    }
}
