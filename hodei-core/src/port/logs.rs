//! The port of log stores, and the records of a log.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::event::LogGap;
use crate::id::AttemptId;
use crate::time::Timestamp;

/// Stores the output of attempts. Records of one attempt are numbered from 0 without holes: a gap record stands in the
/// place of missing chunks.
#[async_trait]
pub trait LogStore: Debug + Send + Sync + 'static {
    /// Stores records; durable when it returns. Idempotent by sequence: stored records are skipped, and of a gap that
    /// begins before the end of the log only the [rest](LogRecord::rest) is stored. Returns the next sequence number
    /// that is missing.
    ///
    /// # Errors
    /// [`LogError::OutOfOrder`] when a record would leave a hole, [`LogError::Sealed`] after the end.
    async fn append(&self, attempt: AttemptId, records: &[LogRecord]) -> Result<u64, LogError>;

    /// Ends the log of an attempt. The first end is final: a second one changes nothing.
    ///
    /// # Errors
    /// [`LogError::Store`].
    async fn seal(&self, attempt: AttemptId, end: LogEnd) -> Result<(), LogError>;

    /// Returns records from `from` on: at least one if there is any, about `max_bytes` in all. A store that dropped
    /// records returns a gap record in their place.
    ///
    /// # Errors
    /// [`LogError::Store`].
    async fn read(&self, attempt: AttemptId, from: u64, max_bytes: usize)
    -> Result<Vec<LogRecord>, LogError>;

    /// Returns the state of the log of an attempt.
    ///
    /// # Errors
    /// [`LogError::Store`].
    async fn state(&self, attempt: AttemptId) -> Result<LogState, LogError>;

    /// Deletes the logs of some attempts: reads return no records from then on. Idempotent.
    ///
    /// # Errors
    /// [`LogError::Store`].
    async fn remove(&self, attempts: &[AttemptId]) -> Result<(), LogError>;
}

/// A record of a log: a chunk of output, or a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Sequence number of the record; for a gap record that of the first missing chunk.
    pub sequence: u64,
    /// When the agent read it from the process.
    pub at: Timestamp,
    /// Content of the record.
    pub body: LogBody,
}

impl LogRecord {
    /// Returns the sequence number after the record.
    pub fn next(&self) -> u64 {
        match &self.body {
            LogBody::Chunk { .. } => self.sequence + 1,
            LogBody::Gap(gap) => gap.to.max(self.sequence + 1),
        }
    }

    /// Makes a gap record for the chunks from `from` up to, not including, `to`, with an unknown number of bytes.
    pub fn gap(from: u64, to: u64, at: Timestamp) -> Self {
        Self::of_gap(LogGap { from, to, bytes: 0 }, at)
    }

    /// Makes the record of a gap.
    pub fn of_gap(gap: LogGap, at: Timestamp) -> Self {
        Self { sequence: gap.from, at, body: LogBody::Gap(gap) }
    }

    /// Returns the number of output bytes in the record.
    pub fn bytes(&self) -> usize {
        match &self.body {
            LogBody::Chunk { bytes, .. } => bytes.len(),
            LogBody::Gap(_) => 0,
        }
    }

    /// Returns the part of the record from `next` on; `None` when all of it is before `next`. A gap may be cut.
    pub fn rest(&self, next: u64) -> Option<LogRecord> {
        match &self.body {
            _ if self.next() <= next => None,
            LogBody::Gap(gap) if self.sequence < next => Some(Self::gap(next, gap.to, self.at)),
            _ => Some(self.clone()),
        }
    }
}

impl LogRecord {
    /// Returns the part of the record that a log with this `next` and `end` does not have yet; `None` when it has all
    /// of it.
    ///
    /// # Errors
    /// [`LogError::Sealed`] after the end, [`LogError::OutOfOrder`] when the record would leave a hole.
    pub fn taken_by(&self, next: u64, end: Option<LogEnd>) -> Result<Option<LogRecord>, LogError> {
        match self.rest(next) {
            None => Ok(None),
            Some(_) if end.is_some() => Err(LogError::Sealed),
            Some(rest) if rest.sequence > next => {
                Err(LogError::OutOfOrder { expected: next, got: rest.sequence })
            }
            rest => Ok(rest),
        }
    }
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogBody {
    /// Bytes as the process wrote them, not split into lines.
    Chunk {
        /// The stream that it wrote them to.
        stream: LogStream,
        /// The bytes.
        bytes: Bytes,
    },
    /// Chunks that will never arrive.
    Gap(LogGap),
}

/// The two outputs of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a log ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogEnd {
    /// Every chunk that the attempt wrote is stored, or covered by a gap record.
    Complete,
    /// The attempt was lost: its output after the last stored chunk is unknown.
    Torn,
}

/// The state of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    /// The next sequence number that is missing.
    pub next: u64,
    /// Bytes of the chunks that were stored.
    pub bytes: u64,
    /// The end of the log; `None` while more records may arrive.
    pub end: Option<LogEnd>,
}

/// Why a call of a log store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The record would leave a hole.
    #[error("log record {got} would leave a hole: send record {expected} next")]
    OutOfOrder {
        /// The next missing sequence number.
        expected: u64,
        /// The sequence number of the refused record.
        got: u64,
    },
    /// The log has ended.
    #[error("the log of this attempt has ended")]
    Sealed,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LogError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_retryable())
    }
}
