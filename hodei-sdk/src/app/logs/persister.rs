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
use crate::app::portions::fitting;
use crate::app::ports::Ports;
use crate::app::workers::lifecycle::{Closing, WorkerLifecycleManager};
use crate::app::workers::results::{Report, ReportKind, ResultIntake};
use crate::app::workers::stream_registry::StreamRegistry;
use crate::task::Tasks;

/// Takes output in, stores it, acknowledges it. Output never passes the committer: each stream has a lane of its
/// own, and a report waits in it behind the output that it closes.
#[derive(Debug, Clone)]
pub(crate) struct LogPersister {
    pub(crate) ports: Arc<Ports>,
    pub(crate) results: ResultIntake,
    pub(crate) lifecycle: WorkerLifecycleManager,
    pub(crate) streams: StreamRegistry,
    pub(crate) dispatcher: JobDispatcher,
    pub(crate) authorizer: Authorizer,
    pub(crate) news: LogNotifier,
    /// Of the beginning of the output of an attempt, in bytes.
    pub(crate) limit: u64,
    pub(crate) tails: TailBudget,
    /// After which an attempt that did not start is closed.
    pub(crate) dispatch_timeout: Duration,
}

/// The way in for one stream.
///
/// There is room in it for all that an agent may have under way, so that its heartbeats never wait behind output
/// that cannot be stored. An agent that has more under way waits, and for nobody else.
#[derive(Debug)]
pub(crate) struct Lane {
    items: mpsc::Sender<LaneItem>,
    room: Arc<Semaphore>,
}

/// What travels in a lane.
#[derive(Debug)]
enum LaneItem {
    Batch(v1::LogBatch, OwnedSemaphorePermit),
    Finished(AttemptId, AttemptReport),
    Other(Report),
}

/// Items of one stream that may wait: more than the batches and results that an agent has under way.
const WAITING: usize = 16_384;
/// Bytes of output of one stream that may wait: twice what an agent has under way.
const ROOM: usize = 16 << 20;
/// Items taken out of a lane at once.
const TAKEN: usize = 256;
/// Bytes of the end of an output that are stored at once.
const TAIL_WRITE: usize = 1 << 20;
/// Ends of the output of one attempt that are stored beside its last: one for each stream that broke.
const TAILS_BETWEEN: u64 = 4;
/// How long output of an attempt that is to stop waits for room on a full disk.
const FULL_DISK_PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries on a store that fails.
const AGAIN: Duration = Duration::from_millis(200);

impl Lane {
    /// Puts output in, waiting for room; `None` when the platform stops. Cancel safe: it is in, or it is not.
    pub(crate) async fn output(&self, batch: v1::LogBatch) -> Option<()> {
        let bytes = batch.chunks.iter().map(|chunk| chunk.data.len()).sum::<usize>().clamp(1, ROOM);
        let room =
            self.room.clone().acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)).await.ok()?;
        self.items.send(LaneItem::Batch(batch, room)).await.ok()
    }

    /// Puts a result in, behind the output that it closes.
    pub(crate) async fn finished(&self, attempt: AttemptId, report: AttemptReport) -> Option<()> {
        self.items.send(LaneItem::Finished(attempt, report)).await.ok()
    }

    /// Puts a report in that the intake has no room for.
    pub(crate) async fn other(&self, report: Report) -> Option<()> {
        self.items.send(LaneItem::Other(report)).await.ok()
    }
}

/// What one lane knows of an attempt.
struct Progress {
    /// Up to where it is stored.
    next: u64,
    bytes: u64,
    fenced: bool,
    /// Of an output that passed its limit.
    tail: Option<LogTail>,
}

impl Progress {
    fn new(next: u64, bytes: u64, fenced: bool) -> Self {
        Self { next, bytes, fenced, tail: None }
    }

    /// The number of the next piece that is wanted.
    fn wanted(&self) -> u64 {
        self.tail.as_ref().map_or(self.next, LogTail::next)
    }
}

impl LogPersister {
    /// Starts the lane of a stream; it ends, after all that is in it, when the stream does.
    pub(crate) fn lane(&self, tasks: &Tasks, worker: WorkerId) -> Lane {
        let (items, waiting) = mpsc::channel(WAITING);
        tasks.spawn("log lane", self.clone().run(worker, waiting));
        Lane { items, room: Arc::new(Semaphore::new(ROOM)) }
    }

    async fn run(self, worker: WorkerId, mut waiting: mpsc::Receiver<LaneItem>) {
        let mut attempts: BTreeMap<AttemptId, Progress> = BTreeMap::new();
        let mut items = Vec::new();
        while waiting.recv_many(&mut items, TAKEN).await > 0 {
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
        self.keep_tails(attempts).await;
    }

    /// A stream ended, and its agent may come back: the ends of what it wrote are stored as they are, so often that an
    /// agent that comes and goes does not fill the store.
    async fn keep_tails(&self, attempts: BTreeMap<AttemptId, Progress>) {
        let most = self.limit.saturating_add(TAIL_BYTES * TAILS_BETWEEN);
        for (attempt, mut progress) in attempts {
            if progress.tail.is_some() && progress.bytes < most {
                self.store_tail(attempt, &mut progress, self.ports.clock.now()).await;
                self.news.notify(attempt);
            }
        }
    }

    /// Stores the end of an output that passed its limit; returns what is missing before it.
    async fn store_tail(&self, attempt: AttemptId, progress: &mut Progress, at: Timestamp) -> Option<LogGap> {
        let (records, gap) = progress.tail.take()?.finish(at);
        let mut records = &records[..];
        while !records.is_empty() {
            let (now, later) =
                records.split_at(fitting(records.iter().map(LogRecord::bytes), usize::MAX, TAIL_WRITE));
            match self.append(attempt, now).await {
                Ok(next) => progress.next = next,
                Err(error) => {
                    tracing::warn!(%attempt, %error, "the end of an output was refused");
                    return gap;
                }
            }
            progress.bytes += now.iter().map(|record| record.bytes() as u64).sum::<u64>();
            records = later;
        }
        gap
    }

    /// Closes the log and hands the report on; `None` when the platform stops.
    async fn on_finished(
        &self,
        worker: WorkerId,
        attempt: AttemptId,
        progress: Option<Progress>,
        report: AttemptReport,
    ) -> Option<()> {
        // A report may come without output on this stream: whether it may close the log is not known yet.
        let mut progress = match progress {
            Some(progress) => progress,
            None => self.begin(worker, attempt, report.log_end).await,
        };
        let gap = if progress.fenced {
            None
        } else {
            let before_end = self.store_tail(attempt, &mut progress, report.finished_at).await;
            before_end.or(self.fill(attempt, progress.next, &report).await)
        };
        let kind = ReportKind::Finished { report, gap };
        let goes_on = self.results.report(Report { worker, attempt, kind }).await;
        if !progress.fenced {
            // All of it is stored: nobody waits for the mark that says so.
            let _ = retry(&*self.ports.clock, || self.ports.logs.seal(attempt, LogEnd::Complete)).await;
            self.news.notify(attempt);
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
            return tracing::warn!(%worker, "passed over output of no attempt, or beyond every number");
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
                self.news.notify(attempt);
                let attempt = Some(convert::attempt_ref(attempt));
                self.streams.send(worker, Body::LogAck(v1::LogAck { attempt, next_sequence }));
            }
            Err(error) => {
                tracing::warn!(%attempt, %error, "output was refused");
                progress.fenced = true;
                self.dispatcher.fence(worker, &[attempt]);
                // Nobody reports it any more.
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

    /// Only the present attempt, on its own worker, may write. What it wrote over an earlier stream is asked for, unless
    /// it begins at its beginning: a store passes over what it has.
    async fn begin(&self, worker: WorkerId, attempt: AttemptId, from: u64) -> Progress {
        if !self.writes(worker, attempt).await && !cfg!(hodei_break = "fence") {
            self.authorizer.not_its(worker, attempt);
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

    /// Whether it is the worker's present attempt. What is remembered may be older than what is stored, as is by the next
    /// moment what was just asked: whoever closes an attempt seals its log first. Not whoever closes one that did not
    /// start in time, so one that waited for long is asked for.
    async fn writes(&self, worker: WorkerId, attempt: AttemptId) -> bool {
        let id = std::slice::from_ref(&attempt.job);
        let is_its = |job: &Arc<Job>| job.is_held_by(worker, attempt);
        let in_time = |job: &Arc<Job>| {
            let now = self.ports.clock.now();
            // Not one that is assigned later than now: the clock was set back since.
            let is_fresh = |at: Timestamp| at <= now && now.since(at) < self.dispatch_timeout / 2;
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

    /// Stores what is new and within the limit; returns up to where the agent may forget.
    async fn store_batch(
        &self,
        attempt: AttemptId,
        progress: &mut Progress,
        batch: v1::LogBatch,
        end: u64,
    ) -> Result<u64, LogError> {
        let mut records = Vec::with_capacity(batch.chunks.len() + 1);
        if batch.first_sequence > progress.next && progress.bytes < self.limit {
            let at = batch.chunks.first().map_or(0, |chunk| chunk.at_micros);
            records.push(LogRecord::gap(progress.next, batch.first_sequence, Timestamp::from_micros(at)));
        }
        let mut beyond = Vec::new();
        for (sequence, chunk) in (batch.first_sequence..).zip(batch.chunks) {
            if sequence < progress.wanted() {
                continue;
            }
            let is_within = progress.bytes < self.limit;
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
            let new = || LogTail::new(&self.tails, progress.next, self.limit);
            let tail = progress.tail.get_or_insert_with(new);
            beyond.into_iter().for_each(|record| tail.push(record));
        }
        Ok(end.max(progress.wanted()))
    }

    /// Appends, and waits for the store for as long as it takes. Only an attempt that is cancelled, or past its timeout, does
    /// not wait for a disk that stays full, which may be its own doing: a gap stands for this output then.
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
                && now.saturating_sub(since) >= FULL_DISK_PATIENCE
                && self.is_to_stop(attempt).await
                && let (Some(first), Some(last)) = (records.first(), records.last())
            {
                let bytes = records.iter().map(|record| record.bytes() as u64).sum();
                let gap = LogGap { from: first.sequence, to: last.next(), bytes };
                tracing::error!(%attempt, bytes, "output of a job that is to stop is dropped: the disk is full");
                let record = [LogRecord::of_gap(gap, last.at)];
                return retry(&*self.ports.clock, || self.ports.logs.append(attempt, &record)).await;
            }
            self.ports.clock.sleep(AGAIN).await;
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

    /// Makes the log whole, which is stored up to `next`: what never came stands in it as a gap.
    async fn fill(&self, attempt: AttemptId, next: u64, report: &AttemptReport) -> Option<LogGap> {
        let missing = (next < report.log_end).then_some(LogGap { from: next, to: report.log_end, bytes: 0 });
        if let Some(gap) = missing {
            let record = [LogRecord::of_gap(gap, report.finished_at)];
            let _ = retry(&*self.ports.clock, || self.ports.logs.append(attempt, &record)).await;
        }
        missing
    }
}

/// Batches of one attempt that follow each other become one, and cost one sync.
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
        self.is_retryable()
    }
}
