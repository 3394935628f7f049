//! Where the records of one log lie in a segment.

use hodei_core::port::{LogEnd, LogRecord, LogState};

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
