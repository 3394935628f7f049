//! The output of a job, as a stream.

use std::collections::VecDeque;
use std::fmt::Debug;

use async_trait::async_trait;
use hodei_core::port::LogRecord;

use crate::Error;

/// The output of a job as it comes: every attempt in turn, to the end of the last.
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
    /// The first sequence number of it that is wanted.
    pub(crate) next: u64,
    /// Nothing comes after it.
    pub(crate) over: bool,
}

/// Where the output of a job comes from: the log store of this platform, or a daemon.
#[async_trait]
pub(crate) trait OutputSource: Debug + Send {
    /// The items from `place` on, waiting for some while the job is not over and `follow` is set; `place` moves over
    /// what holds no item. Empty when nothing comes. Cancel safe.
    async fn more(&mut self, place: &mut LogPlace, follow: bool) -> Result<Vec<LogItem>, Error>;
}

/// One piece of a job's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogItem {
    /// A record of an attempt.
    Record {
        /// The attempt's number.
        attempt: u32,
        /// What it wrote, or what is missing.
        record: LogRecord,
    },
    /// The attempt was lost: what it wrote after the last record is unknown.
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

    /// Only what is stored now: [`next`](Self::next) does not wait for more.
    #[must_use]
    pub fn stored(mut self) -> Self {
        self.follow = false;
        self
    }

    /// From this attempt and sequence number on.
    #[must_use]
    pub fn starting_at(mut self, attempt: u32, sequence: u64) -> Self {
        (self.place.attempt, self.place.next) = (attempt, sequence);
        self
    }

    /// Where it stands: the number of the attempt, and the first sequence number of it that was not given.
    pub fn position(&self) -> (u32, u64) {
        (self.place.attempt, self.place.next)
    }

    /// The next piece; waits for it while the job is not over. `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such job, or the stores'.
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

    /// The next piece and those that are there with it, up to about so many bytes; waits as [`next`](Self::next)
    /// does. Empty at the end. Cancel safe until it has a piece.
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
