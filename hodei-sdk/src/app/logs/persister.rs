//! Intake of output: stores the batches of agents, acknowledges them, and closes logs before results are stored.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::event::LogGap;
use hodei_core::id::{AttemptId, WorkerId};
use hodei_core::job::{AttemptReport, Job, JobStatus};
use hodei_core::port::{Clock, LogBody, LogEnd, LogError, LogRecord, StoreError};
use hodei_core::time::Timestamp;
use hodei_proto::v1::server_message::Body;
use hodei_proto::{convert, v1};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::app::access::authorizer::Authorizer;
use crate::app::dispatch::dispatcher::JobDispatcher;
use crate::app::follow::log_notifier::LogNotifier;
use crate::app::logs::tail::{LogTail, TAIL_BYTES, TailBudget};
use crate::app::ports::Ports;
use crate::app::workers::lifecycle::{Closing, WorkerLifecycleManager};
use crate::app::workers::results::{Report, ReportKind, ResultIntake};
use crate::app::workers::stream_registry::StreamRegistry;
use crate::batch::fitting;
use crate::task::Tasks;

/// Stores output of agents and acknowledges it. Output does not pass through the committer: each stream has its own
/// lane, in which a report waits behind the output that it closes.
#[derive(Debug, Clone)]
pub(crate) struct LogPersister {
    pub(crate) ports: Arc<Ports>,
    pub(crate) results: ResultIntake,
    pub(crate) lifecycle: WorkerLifecycleManager,
    pub(crate) streams: StreamRegistry,
    pub(crate) dispatcher: JobDispatcher,
    pub(crate) authorizer: Authorizer,
    pub(crate) log_notifier: LogNotifier,
    pub(crate) tails: TailBudget,
}

/// Queue of the output and reports of one stream.
///
/// It has room for everything that an agent may have in flight, so that heartbeats never wait behind output that cannot
/// be stored. An agent that exceeds it delays only its own stream.
#[derive(Debug)]
pub(crate) struct Lane {
    items: mpsc::Sender<LaneItem>,
    room: Arc<Semaphore>,
}

/// Item of a lane.
#[derive(Debug)]
enum LaneItem {
    Batch(v1::LogBatch, OwnedSemaphorePermit),
    Finished(AttemptId, AttemptReport),
    Other(Report),
}

/// Items that may queue in one lane: more than the batches and results that an agent has in flight.
const MAX_QUEUED_ITEMS: usize = 16_384;
/// Bytes of output that may queue in one lane: twice the bytes that an agent has in flight.
const MAX_QUEUED_BYTES: usize = 16 << 20;
/// Items taken from a lane at once.
const MAX_TAKEN_ITEMS: usize = 256;
/// Bytes of an output's tail stored in one write.
const TAIL_WRITE_BYTES: usize = 1 << 20;
/// Tails of one attempt that are stored beside its last one: each broken stream stores one.
const MAX_EXTRA_TAILS: u64 = 4;
/// Time for which the output of an attempt that is to stop waits for space on a full disk.
const FULL_DISK_TIMEOUT: Duration = Duration::from_secs(3);
/// Wait between two tries on a store that fails.
const STORE_RETRY_INTERVAL: Duration = Duration::from_millis(200);

impl Lane {
    /// Queues output, waiting for room; `None` when the platform stops. Cancel safe: when dropped, the batch is queued
    /// whole or not at all.
    pub(crate) async fn output(&self, batch: v1::LogBatch) -> Option<()> {
        let bytes =
            batch.chunks.iter().map(|chunk| chunk.data.len()).sum::<usize>().clamp(1, MAX_QUEUED_BYTES);
        let room =
            self.room.clone().acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)).await.ok()?;
        self.items.send(LaneItem::Batch(batch, room)).await.ok()
    }

    /// Queues a result, behind the output that it closes; `None` when the platform stops.
    pub(crate) async fn finished(&self, attempt: AttemptId, report: AttemptReport) -> Option<()> {
        self.items.send(LaneItem::Finished(attempt, report)).await.ok()
    }

    /// Queues a report for which the result intake has no room; `None` when the platform stops.
    pub(crate) async fn other(&self, report: Report) -> Option<()> {
        self.items.send(LaneItem::Other(report)).await.ok()
    }
}

/// State of one attempt's output in a lane.
struct Progress {
    /// Sequence number up to which the output is stored.
    next: u64,
    bytes: u64,
    fenced: bool,
    /// Tail of an output that exceeded the limit.
    tail: Option<LogTail>,
}

impl Progress {
    fn new(next: u64, bytes: u64, fenced: bool) -> Self {
        Self { next, bytes, fenced, tail: None }
    }

    /// Returns the sequence number of the next expected chunk.
    fn next_expected(&self) -> u64 {
        self.tail.as_ref().map_or(self.next, LogTail::next)
    }
}

impl LogPersister {
    /// Starts the lane of a stream. When the stream ends, the lane ends after its remaining items.
    pub(crate) fn lane(&self, tasks: &Tasks, worker: WorkerId) -> Lane {
        let (items, waiting) = mpsc::channel(MAX_QUEUED_ITEMS);
        tasks.spawn("log lane", self.clone().run(worker, waiting));
        Lane { items, room: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)) }
    }

    async fn run(self, worker: WorkerId, mut waiting: mpsc::Receiver<LaneItem>) {
        let mut attempts: BTreeMap<AttemptId, Progress> = BTreeMap::new();
        let mut items = Vec::new();
        while waiting.recv_many(&mut items, MAX_TAKEN_ITEMS).await > 0 {
            for item in join(items.drain(..)) {
                let goes_on = match item {
                    LaneItem::Batch(batch, _room) => {
                        self.on_batch(worker, &mut attempts, batch).await;
                        Some(())
                    }
                    LaneItem::Finished(attempt, report) => {
                        let progress = attempts.remove(&attempt);
                        self.on_finished(worker, attempt, progress, report).await
                    }
                    LaneItem::Other(report) => self.results.report(report).await,
                };
                if goes_on.is_none() {
                    return;
                }
            }
        }
        self.store_remaining_tails(attempts).await;
    }

    /// Stores the tails of a stream that ended, since its agent may reconnect. A limit on the tails of one attempt
    /// keeps an agent that reconnects again and again from filling the store.
    async fn store_remaining_tails(&self, attempts: BTreeMap<AttemptId, Progress>) {
        let most = self.ports.settings.log_limit.saturating_add(TAIL_BYTES * MAX_EXTRA_TAILS);
        for (attempt, mut progress) in attempts {
            if progress.tail.is_some() && progress.bytes < most {
                self.store_tail(attempt, &mut progress, self.ports.clock.now()).await;
                self.log_notifier.notify(attempt);
            }
        }
    }

    /// Stores the tail of an output that exceeded the limit; returns the gap before it.
    async fn store_tail(&self, attempt: AttemptId, progress: &mut Progress, at: Timestamp) -> Option<LogGap> {
        let (records, gap) = progress.tail.take()?.finish(at);
        let mut records = &records[..];
        while !records.is_empty() {
            let (now, later) =
                records.split_at(fitting(records.iter().map(LogRecord::bytes), usize::MAX, TAIL_WRITE_BYTES));
            match self.append(attempt, now).await {
                Ok(next) => progress.next = next,
                Err(error) => {
                    tracing::warn!(%attempt, %error, "the log store refused the tail of an output: it is dropped");
                    return gap;
                }
            }
            progress.bytes += now.iter().map(|record| record.bytes() as u64).sum::<u64>();
            records = later;
        }
        gap
    }

    /// Closes the log and hands the report to the result intake; `None` when the platform stops.
    async fn on_finished(
        &self,
        worker: WorkerId,
        attempt: AttemptId,
        progress: Option<Progress>,
        report: AttemptReport,
    ) -> Option<()> {
        // A report without output on this stream: check first whether it may close the log.
        let mut progress = match progress {
            Some(progress) => progress,
            None => self.begin(worker, attempt, report.log_end).await,
        };
        let gap = if progress.fenced {
            None
        } else {
            let before_end = self.store_tail(attempt, &mut progress, report.finished_at).await;
            before_end.or(self.fill_gap(attempt, progress.next, &report).await)
        };
        let kind = ReportKind::Finished { report, gap };
        let goes_on = self.results.report(Report { worker, attempt, kind }).await;
        if !progress.fenced {
            // Sealed after the report: all output is stored, and no reader waits for the seal.
            let _ = retry(&*self.ports.clock, || self.ports.logs.seal(attempt, LogEnd::Complete)).await;
            self.log_notifier.notify(attempt);
        }
        goes_on
    }

    async fn on_batch(
        &self,
        worker: WorkerId,
        attempts: &mut BTreeMap<AttemptId, Progress>,
        batch: v1::LogBatch,
    ) {
        let end = batch.first_sequence.checked_add(batch.chunks.len() as u64);
        let (Ok(attempt), Some(end)) = (convert::attempt_id(batch.attempt.as_ref()), end) else {
            return tracing::warn!(%worker, "ignored a log batch with an invalid attempt or sequence number");
        };
        let progress = match attempts.entry(attempt) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.begin(worker, attempt, batch.first_sequence).await),
        };
        if progress.fenced {
            return;
        }
        match self.store_batch(attempt, progress, batch, end).await {
            Ok(next_sequence) => {
                self.log_notifier.notify(attempt);
                let attempt = Some(convert::attempt_ref(attempt));
                self.streams.send(worker, Body::LogAck(v1::LogAck { attempt, next_sequence }));
            }
            Err(error) => {
                tracing::warn!(%attempt, %error, "the log store refused output: the attempt is closed");
                progress.fenced = true;
                self.dispatcher.fence(worker, &[attempt]);
                // Close the attempt: the fenced agent will not report it.
                let found =
                    retry(&*self.ports.clock, || self.ports.store.jobs(std::slice::from_ref(&attempt.job)))
                        .await;
                let job = found.ok().and_then(|mut found| found.pop().flatten());
                let job = job.filter(|job| job.attempt_id() == attempt && job.assignment().is_some());
                let closing = Closing::Lost("its output could not be stored");
                self.lifecycle.close_attempts(worker, job.into_iter().collect(), closing).await;
            }
        }
    }

    /// Returns the initial progress of an attempt on this stream. Only the present attempt of a job may write, over its
    /// own worker; others are fenced. Reads how much earlier streams stored, unless `from` is 0: a store skips records
    /// that it has.
    async fn begin(&self, worker: WorkerId, attempt: AttemptId, from: u64) -> Progress {
        if !self.may_write(worker, attempt).await && !cfg!(hodei_break = "fence") {
            self.authorizer.refuse_foreign_attempt(worker, attempt);
            self.dispatcher.fence(worker, &[attempt]);
            return Progress::new(0, 0, true);
        }
        let mut progress = Progress::new(0, 0, false);
        if from > 0
            && let Ok(state) = retry(&*self.ports.clock, || self.ports.logs.state(attempt)).await
        {
            (progress.next, progress.bytes) = (state.next, state.bytes);
        }
        progress
    }

    /// Whether `attempt` is the present attempt of its job, on this worker. A remembered state may be outdated, and so
    /// may a stored one a moment later; that is safe, because a log is sealed before its attempt is closed. The
    /// exception is an attempt that is closed because it did not start in time, so for one that has waited long the
    /// stored state decides.
    async fn may_write(&self, worker: WorkerId, attempt: AttemptId) -> bool {
        let id = std::slice::from_ref(&attempt.job);
        let is_its = |job: &Arc<Job>| job.is_held_by(worker, attempt);
        let in_time = |job: &Arc<Job>| {
            let now = self.ports.clock.now();
            // A time of assignment later than now is not fresh: the clock was set back since.
            let is_fresh =
                |at: Timestamp| at <= now && now.since(at) < self.ports.settings.dispatch_timeout / 2;
            job.status() == JobStatus::Running
                || job.assignment().is_some_and(|assigned| is_fresh(assigned.at))
        };
        let recent = retry(&*self.ports.clock, || self.ports.store.recent_jobs(id)).await;
        if recent.is_ok_and(|found| found.iter().flatten().any(|job| is_its(job) && in_time(job))) {
            return true;
        }
        let stored = retry(&*self.ports.clock, || self.ports.store.jobs(id)).await;
        stored.is_ok_and(|found| found.iter().flatten().any(is_its))
    }

    /// Stores the new chunks of a batch that are within the limit, and keeps the others in the tail. Returns the
    /// sequence number up to which the agent may drop its output.
    async fn store_batch(
        &self,
        attempt: AttemptId,
        progress: &mut Progress,
        batch: v1::LogBatch,
        end: u64,
    ) -> Result<u64, LogError> {
        let mut records = Vec::with_capacity(batch.chunks.len() + 1);
        if batch.first_sequence > progress.next && progress.bytes < self.ports.settings.log_limit {
            let at = batch.chunks.first().map_or(0, |chunk| chunk.at_micros);
            records.push(LogRecord::gap(progress.next, batch.first_sequence, Timestamp::from_micros(at)));
        }
        let mut beyond = Vec::new();
        for (sequence, chunk) in (batch.first_sequence..).zip(batch.chunks) {
            if sequence < progress.next_expected() {
                continue;
            }
            let is_within = progress.bytes < self.ports.settings.log_limit;
            let Ok(stream) = convert::stream_from_wire(chunk.stream) else { continue };
            let at = Timestamp::from_micros(chunk.at_micros);
            if is_within {
                progress.bytes += chunk.data.len() as u64;
            }
            let record = LogRecord { sequence, at, body: LogBody::Chunk { stream, bytes: chunk.data } };
            if is_within { records.push(record) } else { beyond.push(record) }
        }
        if !records.is_empty() {
            progress.next = self.append(attempt, &records).await?;
        }
        if !beyond.is_empty() {
            let new = || LogTail::new(&self.tails, progress.next, self.ports.settings.log_limit);
            let tail = progress.tail.get_or_insert_with(new);
            beyond.into_iter().for_each(|record| tail.push(record));
        }
        Ok(end.max(progress.next_expected()))
    }

    /// Appends records, retrying while the store is unavailable. An attempt that is cancelled or past its timeout does
    /// not wait for a disk that stays full, which it may have filled itself: a gap then replaces its output.
    async fn append(&self, attempt: AttemptId, records: &[LogRecord]) -> Result<u64, LogError> {
        let mut full_since = None;
        loop {
            let error = match self.ports.logs.append(attempt, records).await {
                Err(error) if error.is_retryable() => error,
                answer => return answer,
            };
            let now = self.ports.clock.monotonic();
            if full_since.is_none() {
                tracing::error!(%error, %attempt, "output cannot be stored: the job waits until it can");
            }
            let since = *full_since.get_or_insert(now);
            let is_full = matches!(&error, LogError::Store(error) if error.is_disk_full());
            if is_full
                && now.saturating_sub(since) >= FULL_DISK_TIMEOUT
                && self.is_to_stop(attempt).await
                && let (Some(first), Some(last)) = (records.first(), records.last())
            {
                let bytes = records.iter().map(|record| record.bytes() as u64).sum();
                let gap = LogGap { from: first.sequence, to: last.next(), bytes };
                tracing::error!(%attempt, bytes, "output of a job that is to stop is dropped: the disk is full");
                let record = [LogRecord::of_gap(gap, last.at)];
                return retry(&*self.ports.clock, || self.ports.logs.append(attempt, &record)).await;
            }
            self.ports.clock.sleep(STORE_RETRY_INTERVAL).await;
        }
    }

    async fn is_to_stop(&self, attempt: AttemptId) -> bool {
        let found = self.ports.store.jobs(std::slice::from_ref(&attempt.job)).await;
        let now = self.ports.clock.now();
        let is_late = |job: &Job| {
            let limit = job.spec().timeout().zip(job.started_at());
            limit.is_some_and(|(limit, started_at)| now.since(started_at) >= limit)
        };
        let is_to_stop = |job: &Arc<Job>| {
            let is_cancelled = job.assignment().is_some_and(|assignment| assignment.cancel_requested);
            job.attempt_id() == attempt && (is_cancelled || is_late(job))
        };
        found.is_ok_and(|found| found.iter().flatten().any(is_to_stop))
    }

    /// Completes a log that is stored up to `next`: a gap replaces the output that never arrived. Returns that gap.
    async fn fill_gap(&self, attempt: AttemptId, next: u64, report: &AttemptReport) -> Option<LogGap> {
        let missing = (next < report.log_end).then_some(LogGap { from: next, to: report.log_end, bytes: 0 });
        if let Some(gap) = missing {
            let record = [LogRecord::of_gap(gap, report.finished_at)];
            let _ = retry(&*self.ports.clock, || self.ports.logs.append(attempt, &record)).await;
        }
        missing
    }
}

/// Joins consecutive batches of one attempt, so that they cost one sync.
fn join(items: impl Iterator<Item = LaneItem>) -> Vec<LaneItem> {
    let mut joined: Vec<LaneItem> = Vec::new();
    for item in items {
        match (joined.last_mut(), item) {
            (Some(LaneItem::Batch(last, room)), LaneItem::Batch(next, more))
                if last.attempt == next.attempt
                    && last.first_sequence.checked_add(last.chunks.len() as u64)
                        == Some(next.first_sequence) =>
            {
                last.chunks.extend(next.chunks);
                room.merge(more);
            }
            (_, item) => joined.push(item),
        }
    }
    joined
}

/// Calls until the store answers. The agent keeps the output meanwhile, so waiting loses nothing.
async fn retry<T, E, F>(clock: &dyn Clock, mut call: impl FnMut() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
    E: MayPass + std::fmt::Display,
{
    let mut is_logged = false;
    loop {
        match call().await {
            Err(error) if error.may_pass() => {
                if !std::mem::replace(&mut is_logged, true) {
                    tracing::error!(%error, "output cannot be stored: the job waits until it can");
                }
                clock.sleep(STORE_RETRY_INTERVAL).await;
            }
            answer => return answer,
        }
    }
}

/// Errors that may be temporary.
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
        self.is_retryable()
    }
}
