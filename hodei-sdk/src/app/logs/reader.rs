use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::TenantId;
use hodei_core::port::{ClockExt, LogEnd, LogRecord, LogStore};

use crate::Error;
use crate::app::follow::job_states::LookAgain;
use crate::app::follow::log_notifier::LogNews;
use crate::app::jobs::queries::JobQueries;

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

/// Bytes read at once.
const READ: usize = 256 * 1024;

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

/// Output from the log store of this platform.
#[derive(Debug)]
pub(crate) struct StoredOutput {
    pub(crate) queries: JobQueries,
    pub(crate) store: Arc<dyn LogStore>,
    pub(crate) news: LogNews,
    pub(crate) tenant: TenantId,
    pub(crate) job: JobId,
    /// The job was found to be the tenant's.
    pub(crate) is_known: bool,
}

impl StoredOutput {
    async fn read(&self, attempt: AttemptId, from: u64) -> Result<Vec<LogItem>, Error> {
        let records = self.store.read(attempt, from, READ).await?;
        let item = |record| LogItem::Record { attempt: attempt.number, record };
        Ok(records.into_iter().map(item).collect())
    }
}

#[async_trait]
impl OutputSource for StoredOutput {
    async fn more(&mut self, place: &mut LogPlace, follow: bool) -> Result<Vec<LogItem>, Error> {
        let mut look_again = LookAgain::new(&self.queries);
        loop {
            let number = place.attempt;
            let attempt = AttemptId { job: self.job, number };
            let mut log_news = self.news.subscribe(attempt);
            let mut job_news = self.queries.news.subscribe([self.job], false);
            // Whose job it is was asked: news is of output, most often.
            if self.is_known {
                let items = self.read(attempt, place.next).await?;
                if !items.is_empty() {
                    return Ok(items);
                }
            }
            // Then the job is looked at first: what it wrote before that is stored by then.
            let job = self.queries.get(&self.tenant, self.job).await?;
            self.is_known = true;
            let items = self.read(attempt, place.next).await?;
            if !items.is_empty() {
                return Ok(items);
            }
            let closed = job.attempt() > number || job.is_terminal();
            if closed {
                let ran = job.ending().and_then(|ending| ending.run.as_ref());
                let end = ran.filter(|_| job.attempt() == number).map_or(0, |run| run.log_end);
                if place.next < end {
                    // The job wrote it, and its store does not have it any more.
                    let at = ran.map_or(job.created_at(), |run| run.finished_at);
                    return Ok(vec![LogItem::Record {
                        attempt: number,
                        record: LogRecord::gap(place.next, end, at),
                    }]);
                }
                let torn = self.store.state(attempt).await?.end == Some(LogEnd::Torn);
                *place =
                    LogPlace { attempt: number.saturating_add(1), next: 0, over: job.attempt() <= number };
                if torn {
                    return Ok(vec![LogItem::Torn { attempt: number }]);
                }
                if place.over {
                    return Ok(Vec::new());
                }
                continue;
            }
            if !follow {
                return Ok(Vec::new());
            }
            let news = async {
                tokio::select! { biased; _ = log_news.changed() => {}, _ = job_news.changed() => {} }
            };
            let _ = self.queries.ports.clock.timeout(look_again.next(), news).await;
        }
    }
}
