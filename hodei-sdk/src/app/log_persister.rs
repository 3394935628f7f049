use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::event::LogGap;
use hodei_core::id::{AttemptId, WorkerId};
use hodei_core::job::AttemptReport;
use hodei_core::port::{Clock, LogBody, LogEnd, LogError, LogRecord, LogStore, Store, StoreError};
use hodei_core::time::Timestamp;
use hodei_proto::v1::server_message::Body;
use hodei_proto::{convert, v1};
use tokio::sync::mpsc;

use super::results::{Report, ReportKind};
use super::{JobDispatcher, ResultIntake, Sessions, Watches};
use crate::task::Tasks;

/// Takes output in, stores it, acknowledges it. Output never passes the committer: each stream has a lane of its
/// own, and a report waits in it behind the output that it closes.
#[derive(Debug, Clone)]
pub(crate) struct LogPersister {
    pub(crate) logs: Arc<dyn LogStore>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) results: ResultIntake,
    pub(crate) sessions: Sessions,
    pub(crate) dispatcher: JobDispatcher,
    pub(crate) news: Watches<AttemptId, u64>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limit: u64,
}

/// The way in for one stream.
#[derive(Debug)]
pub(crate) struct Lane(mpsc::Sender<LaneItem>);

/// What travels in a lane.
#[derive(Debug)]
pub(crate) enum LaneItem {
    Batch(v1::LogBatch),
    Finished(AttemptId, AttemptReport),
}

/// Items of one stream that may wait.
const WAITING: usize = 256;
/// Between two tries on a store that fails.
const AGAIN: Duration = Duration::from_millis(200);

impl Lane {
    /// Puts an item in, waiting for room; `None` when the platform stops.
    pub(crate) async fn put(&self, item: LaneItem) -> Option<()> {
        self.0.send(item).await.ok()
    }
}

/// What one lane knows of an attempt.
struct Progress {
    next: u64,
    bytes: u64,
    fenced: bool,
}

impl LogPersister {
    /// Starts the lane of a stream; it ends, after all that is in it, when the stream does.
    pub(crate) fn lane(&self, tasks: &Tasks, worker: WorkerId) -> Lane {
        let (items, waiting) = mpsc::channel(WAITING);
        tasks.spawn("log lane", self.clone().run(worker, waiting));
        Lane(items)
    }

    async fn run(self, worker: WorkerId, mut waiting: mpsc::Receiver<LaneItem>) {
        let mut attempts: BTreeMap<AttemptId, Progress> = BTreeMap::new();
        let mut items = Vec::new();
        while waiting.recv_many(&mut items, WAITING).await > 0 {
            for item in join(items.drain(..)) {
                match item {
                    LaneItem::Batch(batch) => self.on_batch(worker, &mut attempts, batch).await,
                    LaneItem::Finished(attempt, report) => {
                        let progress = attempts.remove(&attempt);
                        if self.on_finished(worker, attempt, progress, report).await.is_none() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Closes the log and hands the report on; `None` when the platform stops.
    async fn on_finished(
        &self,
        worker: WorkerId,
        attempt: AttemptId,
        progress: Option<Progress>,
        report: AttemptReport,
    ) -> Option<()> {
        let fenced = progress.is_some_and(|progress| progress.fenced);
        let gap = if fenced { None } else { self.close(attempt, &report).await };
        let kind = ReportKind::Finished { report, gap };
        self.results.report(Report { worker, attempt, kind }).await
    }

    async fn on_batch(
        &self,
        worker: WorkerId,
        attempts: &mut BTreeMap<AttemptId, Progress>,
        batch: v1::LogBatch,
    ) {
        let Ok(attempt) = convert::attempt_id(batch.attempt.as_ref()) else {
            return tracing::warn!(%worker, "passed over output of no attempt");
        };
        let progress = match attempts.entry(attempt) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.begin(worker, attempt).await),
        };
        if progress.fenced {
            return;
        }
        match self.store_batch(attempt, progress, batch).await {
            Ok(next_sequence) => {
                self.news.notify(attempt, next_sequence, false);
                let attempt = Some(convert::attempt_ref(attempt));
                self.sessions.send(worker, Body::LogAck(v1::LogAck { attempt, next_sequence }));
            }
            Err(error) => {
                tracing::debug!(%attempt, %error, "output was refused");
                progress.fenced = true;
                self.dispatcher.fence(worker, &[attempt]);
            }
        }
    }

    /// Only the present attempt, on its own worker, may write.
    async fn begin(&self, worker: WorkerId, attempt: AttemptId) -> Progress {
        let job = retry(&*self.clock, || self.store.jobs(std::slice::from_ref(&attempt.job))).await;
        let job = job.ok().and_then(|mut found| found.pop().flatten());
        let present = job.filter(|job| job.attempt_id() == attempt);
        let writes = present.is_some_and(|job| job.assignment().is_some_and(|at| at.worker == worker));
        if !writes && !cfg!(hodei_break = "fence") {
            self.dispatcher.fence(worker, &[attempt]);
            return Progress { next: 0, bytes: 0, fenced: true };
        }
        let state = retry(&*self.clock, || self.logs.state(attempt)).await;
        let (next, bytes) = state.map_or((0, 0), |state| (state.next, state.bytes));
        Progress { next, bytes, fenced: false }
    }

    /// Stores what is new and within the limit; returns up to where the agent may forget.
    async fn store_batch(
        &self,
        attempt: AttemptId,
        progress: &mut Progress,
        batch: v1::LogBatch,
    ) -> Result<u64, LogError> {
        let end = batch.first_sequence + batch.chunks.len() as u64;
        let mut records = Vec::with_capacity(batch.chunks.len() + 1);
        if batch.first_sequence > progress.next && progress.bytes < self.limit {
            let at = batch.chunks.first().map_or(0, |chunk| chunk.at_micros);
            records.push(LogRecord::gap(progress.next, batch.first_sequence, Timestamp::from_micros(at)));
        }
        for (sequence, chunk) in (batch.first_sequence..).zip(batch.chunks) {
            if sequence < progress.next {
                continue;
            }
            if progress.bytes >= self.limit {
                break;
            }
            progress.bytes += chunk.data.len() as u64;
            let Ok(stream) = convert::stream_from_wire(chunk.stream) else { continue };
            let at = Timestamp::from_micros(chunk.at_micros);
            records.push(LogRecord { sequence, at, body: LogBody::Chunk { stream, bytes: chunk.data } });
        }
        if !records.is_empty() {
            progress.next = retry(&*self.clock, || self.logs.append(attempt, &records)).await?;
        }
        Ok(end.max(progress.next))
    }

    /// Makes the log whole: what never came stands in it as a gap.
    async fn close(&self, attempt: AttemptId, report: &AttemptReport) -> Option<LogGap> {
        let state = retry(&*self.clock, || self.logs.state(attempt)).await.ok()?;
        let missing =
            (state.next < report.log_end).then_some(LogGap { from: state.next, to: report.log_end });
        if let Some(LogGap { from, to }) = missing {
            let record = [LogRecord::gap(from, to, report.finished_at)];
            let _ = retry(&*self.clock, || self.logs.append(attempt, &record)).await;
        }
        let _ = retry(&*self.clock, || self.logs.seal(attempt, LogEnd::Complete)).await;
        self.news.notify(attempt, u64::MAX, true);
        missing
    }
}

/// Batches of one attempt that follow each other become one, and cost one sync.
fn join(items: impl Iterator<Item = LaneItem>) -> Vec<LaneItem> {
    let mut joined: Vec<LaneItem> = Vec::new();
    for item in items {
        match (joined.last_mut(), item) {
            (Some(LaneItem::Batch(last)), LaneItem::Batch(next))
                if last.attempt == next.attempt
                    && last.first_sequence + last.chunks.len() as u64 == next.first_sequence =>
            {
                last.chunks.extend(next.chunks);
            }
            (_, item) => joined.push(item),
        }
    }
    joined
}

/// Calls until the store answers: output is kept by the agent meanwhile, so waiting loses nothing.
async fn retry<T, E, F>(clock: &dyn Clock, mut call: impl FnMut() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
    E: MayPass + std::fmt::Display,
{
    let mut said = false;
    loop {
        match call().await {
            Err(error) if error.may_pass() => {
                if !std::mem::replace(&mut said, true) {
                    tracing::error!(%error, "output cannot be stored: the job waits until it can");
                }
                clock.sleep(AGAIN).await;
            }
            answer => return answer,
        }
    }
}

trait MayPass {
    fn may_pass(&self) -> bool;
}

impl MayPass for StoreError {
    fn may_pass(&self) -> bool {
        self.is_retryable()
    }
}

impl MayPass for LogError {
    fn may_pass(&self) -> bool {
        matches!(self, LogError::Store(error) if error.is_retryable())
    }
}
