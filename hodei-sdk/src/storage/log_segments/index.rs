use std::collections::BTreeMap;
use std::sync::Arc;

use hodei_core::id::AttemptId;
use hodei_core::port::{LogEnd, LogRecord, LogState};

use super::cold::ColdSegment;

/// Where everything is. The segment that is written is known to the last record; of the others only which
/// attempts they can have is in memory, and their own index files say the rest.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Attempts with records in the active segment, or without an end.
    pub(super) logs: BTreeMap<AttemptId, Log>,
    pub(super) cold: BTreeMap<u32, Arc<ColdSegment>>,
}

/// What is known of one log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) next: u64,
    pub(super) bytes: u64,
    pub(super) end: Option<LogEnd>,
    /// Where its records are in the active segment.
    pub(super) extents: Vec<Extent>,
}

/// Records of one attempt that follow each other in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The sequence number of the first.
    pub(super) first: u64,
    /// The one after the last.
    pub(super) next: u64,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// Longer extents are not joined: reading begins at the start of one.
const JOINED: u32 = 256 << 10;

impl Log {
    pub(super) fn state(&self) -> LogState {
        LogState { next: self.next, bytes: self.bytes, end: self.end }
    }

    /// Takes in a record whose frame lies at `offset`.
    pub(super) fn record(&mut self, record: &LogRecord, offset: u64, length: usize) {
        let (offset, length) = (offset as u32, length as u32);
        match self.extents.last_mut() {
            Some(last)
                if last.offset + last.length == offset
                    && last.next == record.sequence
                    && last.length < JOINED =>
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
    /// What is known of an attempt. Looks into index files when it has to.
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

    /// Segments that may have records of an attempt beside the active one, the oldest first.
    pub(super) fn cold_of(&self, attempt: AttemptId) -> Vec<Arc<ColdSegment>> {
        self.cold.values().filter(|segment| segment.may_have(attempt)).cloned().collect()
    }
}
