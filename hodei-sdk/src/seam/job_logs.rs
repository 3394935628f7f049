//! The output of a job, as a stream.

use std::collections::VecDeque;
use std::fmt::Debug;

use async_trait::async_trait;
use hodei_core::port::LogRecord;

use crate::Error;

/// Follows the output of a job: every attempt in turn, to the end of the last.
#[derive(Debug)]
pub struct JobLogs {
    source: Box<dyn OutputSource>,
    place: LogPlace,
    ready: VecDeque<LogItem>,
    follow: bool,
}

/// A place in the output of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogPlace {
    /// The number of the attempt, from 1.
    pub(crate) attempt: u32,
    /// The sequence number of the next record of the attempt.
    pub(crate) next: u64,
    /// Whether this is the end of the output.
    pub(crate) over: bool,
}

/// The source of the output of a job: the log store of this platform, or a daemon.
#[async_trait]
pub(crate) trait OutputSource: Debug + Send {
    /// Returns the items from `place` on. Waits for some while the job has not ended if `follow` is set. Moves `place`
    /// past ranges without items. Empty at the end. Cancel safe.
    async fn more(&mut self, place: &mut LogPlace, follow: bool) -> Result<Vec<LogItem>, Error>;
}

/// One piece of a job's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogItem {
    /// A record of an attempt.
    Record {
        /// The attempt's number.
        attempt: u32,
        /// Its output, or a gap.
        record: LogRecord,
    },
    /// The attempt was lost: its output after the last record is unknown.
    Torn {
        /// The attempt's number.
        attempt: u32,
    },
}

impl JobLogs {
    pub(crate) fn new(source: Box<dyn OutputSource>) -> Self {
        let place = LogPlace { attempt: 1, next: 0, over: false };
        Self { source, place, ready: VecDeque::new(), follow: true }
    }

    /// Restricts the stream to the output that is stored: [`next`](Self::next) does not wait for more.
    #[must_use]
    pub fn stored(mut self) -> Self {
        self.follow = false;
        self
    }

    /// Starts at this attempt and sequence number.
    #[must_use]
    pub fn starting_at(mut self, attempt: u32, sequence: u64) -> Self {
        (self.place.attempt, self.place.next) = (attempt, sequence);
        self
    }

    /// Returns the place after the last item: the number of the attempt, and the sequence number of its next record.
    pub fn position(&self) -> (u32, u64) {
        (self.place.attempt, self.place.next)
    }

    /// Returns the next piece, and waits for it while the job has not ended. `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such job, or the stores'.
    pub async fn next(&mut self) -> Result<Option<LogItem>, Error> {
        if self.ready.is_empty() && !self.place.over {
            self.ready = self.source.more(&mut self.place, self.follow).await?.into();
        }
        let item = self.ready.pop_front();
        match &item {
            Some(LogItem::Record { attempt, record }) => {
                (self.place.attempt, self.place.next) = (*attempt, record.next());
            }
            Some(LogItem::Torn { attempt }) => {
                (self.place.attempt, self.place.next) =
                    (self.place.attempt.max(attempt.saturating_add(1)), 0);
            }
            None => {}
        }
        Ok(item)
    }

    /// Returns the next piece and those that are available with it, up to about `bytes` bytes. Waits as
    /// [`next`](Self::next) does. Empty at the end. Not cancel safe once it has read a piece.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_batch(&mut self, bytes: usize) -> Result<Vec<LogItem>, Error> {
        let (mut items, mut size) = (Vec::new(), 0);
        while let Some(item) = self.next().await? {
            if let LogItem::Record { record, .. } = &item {
                size += record.bytes();
            }
            items.push(item);
            if self.ready.is_empty() || size >= bytes {
                break;
            }
        }
        Ok(items)
    }
}
