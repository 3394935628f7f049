use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::event::LogGap;
use crate::id::AttemptId;
use crate::time::Timestamp;

/// Keeps the output of attempts. Records of one attempt are numbered from 0 without holes: what is missing is
/// a gap record in its place.
#[async_trait]
pub trait LogStore: Debug + Send + Sync + 'static {
    /// Stores records; durable when it returns. Idempotent by sequence: what is there already is passed over, and of a
    /// gap that begins before only the [rest](LogRecord::rest) is stored.
    /// Returns the next sequence number that is missing.
    ///
    /// # Errors
    /// [`LogError::OutOfOrder`] when a record would leave a hole, [`LogError::Sealed`] after the end.
    async fn append(&self, attempt: AttemptId, records: &[LogRecord]) -> Result<u64, LogError>;

    /// Ends the log of an attempt. The first end stays: a second one changes nothing.
    ///
    /// # Errors
    /// [`LogError::Store`].
    async fn seal(&self, attempt: AttemptId, end: LogEnd) -> Result<(), LogError>;

    /// Records from `from` on, at least one if there is any, about `max_bytes` in all. A store that dropped
    /// them gives a gap record in their place.
    ///
    /// # Errors
    /// [`LogError::Store`].
    async fn read(&self, attempt: AttemptId, from: u64, max_bytes: usize)
    -> Result<Vec<LogRecord>, LogError>;

    /// How far the log of an attempt is.
    ///
    /// # Errors
    /// [`LogError::Store`].
    async fn state(&self, attempt: AttemptId) -> Result<LogState, LogError>;

    /// Forgets the logs of some attempts: reading them finds nothing from then on. Idempotent.
    ///
    /// # Errors
    /// [`LogError::Store`].
    async fn remove(&self, attempts: &[AttemptId]) -> Result<(), LogError>;
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Its number; a gap record has that of the first it stands for.
    pub sequence: u64,
    /// When it was read from the process.
    pub at: Timestamp,
    /// What it is.
    pub body: LogBody,
}

impl LogRecord {
    /// The sequence number after it.
    pub fn next(&self) -> u64 {
        match &self.body {
            LogBody::Chunk { .. } => self.sequence + 1,
            LogBody::Gap(gap) => gap.to.max(self.sequence + 1),
        }
    }

    /// A record that stands for what is missing from `from` up to, not including, `to`; nobody knows how many bytes.
    pub fn gap(from: u64, to: u64, at: Timestamp) -> Self {
        Self::of_gap(LogGap { from, to, bytes: 0 }, at)
    }

    /// The record of a gap.
    pub fn of_gap(gap: LogGap, at: Timestamp) -> Self {
        Self { sequence: gap.from, at, body: LogBody::Gap(gap) }
    }

    /// Bytes of the process in it.
    pub fn bytes(&self) -> usize {
        match &self.body {
            LogBody::Chunk { bytes, .. } => bytes.len(),
            LogBody::Gap(_) => 0,
        }
    }

    /// What of it is not before `next`: a gap may be there in part.
    pub fn rest(&self, next: u64) -> Option<LogRecord> {
        match &self.body {
            _ if self.next() <= next => None,
            LogBody::Gap(gap) if self.sequence < next => Some(Self::gap(next, gap.to, self.at)),
            _ => Some(self.clone()),
        }
    }
}

impl LogRecord {
    /// What a log takes of it whose next sequence number is `next`, and which has an end or none: the part that is not
    /// there yet, `None` when all of it is.
    ///
    /// # Errors
    /// [`LogError::Sealed`] after the end, [`LogError::OutOfOrder`] when it would leave a hole.
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
    /// Bytes as the process wrote them: not lines.
    Chunk {
        /// Where it wrote them.
        stream: LogStream,
        /// The bytes.
        bytes: Bytes,
    },
    /// Chunks that are missing for ever.
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
    /// Every chunk the attempt wrote is stored or stands in a gap record.
    Complete,
    /// The attempt was lost: what it wrote after the last stored chunk is unknown.
    Torn,
}

/// How far a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    /// The next sequence number that is missing.
    pub next: u64,
    /// Bytes of the chunks that were stored.
    pub bytes: u64,
    /// Set once nothing more will come.
    pub end: Option<LogEnd>,
}

/// Why a log store refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The record would leave a hole.
    #[error("log record {got} would leave a hole: the next is {expected}")]
    OutOfOrder {
        /// What is missing next.
        expected: u64,
        /// What came.
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
