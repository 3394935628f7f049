use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::TenantId;
use hodei_core::port::{ClockExt, LogEnd, LogRecord, LogStore};

use super::{JobQueries, Watches};
use crate::Error;

/// The output of a job as it comes: every attempt in turn, to the end of the last.
#[derive(Debug)]
pub struct JobLogs {
    queries: JobQueries,
    store: Arc<dyn LogStore>,
    news: Watches<AttemptId, u64>,
    tenant: TenantId,
    job: JobId,
    attempt: u32,
    next: u64,
    ready: VecDeque<LogRecord>,
    follow: bool,
    over: bool,
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
/// A wait looks at the store this often even without a hint.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl JobLogs {
    pub(super) fn new(
        queries: JobQueries,
        store: Arc<dyn LogStore>,
        news: Watches<AttemptId, u64>,
        tenant: TenantId,
        job: JobId,
    ) -> Self {
        Self {
            queries,
            store,
            news,
            tenant,
            job,
            attempt: 1,
            next: 0,
            ready: VecDeque::new(),
            follow: true,
            over: false,
        }
    }

    /// Only what is stored now: [`next`](Self::next) does not wait for more.
    #[must_use]
    pub fn stored(mut self) -> Self {
        self.follow = false;
        self
    }

    /// The next piece; waits for it while the job is not over. `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such job, or the stores'.
    pub async fn next(&mut self) -> Result<Option<LogItem>, Error> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                self.next = record.next();
                return Ok(Some(LogItem::Record { attempt: self.attempt, record }));
            }
            if self.over {
                return Ok(None);
            }
            let attempt = AttemptId { job: self.job, number: self.attempt };
            let mut log_news = self.news.subscribe(attempt);
            let mut job_news = self.queries.versions.subscribe(self.job);
            // The job is looked at first: what it wrote before that is stored by then.
            let job = self.queries.get(&self.tenant, self.job).await?;
            self.ready = self.store.read(attempt, self.next, READ).await?.into();
            if !self.ready.is_empty() {
                continue;
            }
            let closed = job.attempt() > self.attempt || job.is_terminal();
            if closed {
                let ran = job.ending().and_then(|ending| ending.run.as_ref());
                let end = ran.filter(|_| job.attempt() == self.attempt).map_or(0, |run| run.log_end);
                if self.next < end {
                    // The job wrote it, and its store does not have it any more.
                    let (from, at) = (self.next, ran.map_or(job.created_at(), |run| run.finished_at));
                    self.ready.push_back(LogRecord::gap(from, end, at));
                    continue;
                }
                let torn = self.store.state(attempt).await?.end == Some(LogEnd::Torn);
                let was = self.attempt;
                (self.attempt, self.next) = (self.attempt + 1, 0);
                self.over = job.attempt() <= was;
                if torn {
                    return Ok(Some(LogItem::Torn { attempt: was }));
                }
                continue;
            }
            if !self.follow {
                return Ok(None);
            }
            let news = async {
                tokio::select! { biased; _ = log_news.changed() => {}, _ = job_news.changed() => {} }
            };
            let _ = self.queries.clock.timeout(LOOK_AGAIN, news).await;
        }
    }
}
