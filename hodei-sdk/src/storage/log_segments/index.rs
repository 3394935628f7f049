//! Index of log segments: which records lie where.

use std::collections::BTreeMap;
use std::sync::Arc;

use hodei_core::id::AttemptId;

use super::cold::ColdSegment;
use super::extents::Log;

/// Locations of all records. Memory holds every extent of the active segment, but of each closed segment only the range
/// of its attempts; the rest is in its index file.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Attempts with records in the active segment, or without an end.
    pub(super) logs: BTreeMap<AttemptId, Log>,
    pub(super) cold: BTreeMap<u32, Arc<ColdSegment>>,
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
