//! Reader of a job's output: reads from the log store and follows to the end of the job.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::TenantId;
use hodei_core::port::{ClockExt, LogEnd, LogRecord, LogStore};

use crate::Error;
use crate::app::backoff::PollBackoff;
use crate::app::follow::log_notifier::LogNotifier;
use crate::app::jobs::queries::JobQueries;
use crate::seam::{LogItem, LogPlace, OutputSource};

/// Bytes of output read at once.
const READ_BYTES: usize = 256 * 1024;

/// Reads the output of one job from the log store of this platform.
#[derive(Debug)]
pub(crate) struct StoredOutput {
    pub(crate) queries: JobQueries,
    pub(crate) store: Arc<dyn LogStore>,
    pub(crate) log_notifier: LogNotifier,
    pub(crate) tenant: TenantId,
    pub(crate) job: JobId,
    /// Whether the job is known to belong to the tenant.
    pub(crate) is_known: bool,
}

impl StoredOutput {
    async fn read(&self, attempt: AttemptId, from: u64) -> Result<Vec<LogItem>, Error> {
        let records = self.store.read(attempt, from, READ_BYTES).await?;
        let item = |record| LogItem::Record { attempt: attempt.number, record };
        Ok(records.into_iter().map(item).collect())
    }
}

#[async_trait]
impl OutputSource for StoredOutput {
    async fn more(&mut self, place: &mut LogPlace, follow: bool) -> Result<Vec<LogItem>, Error> {
        let mut backoff = PollBackoff::of_jobs(&*self.queries.ports.store);
        loop {
            let number = place.attempt;
            let attempt = AttemptId { job: self.job, number };
            let mut log_notifier = self.log_notifier.subscribe(attempt);
            let mut job_notifier = self.queries.job_notifier.subscribe([self.job], false);
            // The tenant is checked already, and most notifications are about output: try the log alone first.
            if self.is_known {
                let items = self.read(attempt, place.next).await?;
                if !items.is_empty() {
                    return Ok(items);
                }
            }
            // Read the job before the log: all output that it wrote before this state is in the log by then.
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
                    // The job wrote this output, and the log store has lost it.
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
                tokio::select! { biased; _ = log_notifier.changed() => {}, _ = job_notifier.changed() => {} }
            };
            let _ = self.queries.ports.clock.timeout(backoff.next(), news).await;
        }
    }
}
