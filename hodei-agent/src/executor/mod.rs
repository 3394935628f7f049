//! Running one attempt.

mod artifacts;
mod blocking;
mod host;
mod job_executor;
mod leftovers;
mod output;
mod process;
mod script;
mod secrets;
mod shortage;
mod start;
mod workspace;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::connection::ArtifactChannel;
use async_trait::async_trait;
use bytes::Bytes;
use hodei_core::id::AttemptId;
use hodei_core::job::{AttemptReport, JobSpec};
use hodei_core::port::LogStream;
use hodei_core::secret::{SecretName, SecretValue};
use hodei_core::time::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

pub use host::children::Children;
pub use host::marks::{LivingAgent, Marks, kill_marked, living_agents, marked_processes, marked_workers};
pub(crate) use host::names::{prefix_of_provider, worker_of};
pub use host::pidfd::watch_exit;
pub use host::posix::{inherit_no_descriptors, return_large_memory, wait_for_children};
pub use job_executor::{JobExecutor, holds_limits};
pub use leftovers::{Leftovers, clear_leftovers_of, clear_leftovers_of_owner};
pub use output::file_logger::FileLogger;
pub(crate) use process::stopped;
pub(crate) use secrets::{MEMORY, is_memory};
pub use start::helper::exec_in;
pub use start::start_state::StartState;
pub use workspace::Workspaces;

/// Runs attempts; the session asks for no more at once than there are slots.
///
/// Duties: [`run`](Self::run) says [`started`](Output::started) within the dispatch timeout, ends the attempt at the
/// timeout of its spec and after a [`StopSignal`], and waits rather than blocks its thread.
///
/// The session bounds an executor that fails in them. A panic ends the attempt as a failure of the platform, with the
/// message of the panic. An attempt that is not over a second after its timeout is told to stop, with
/// [`StopReason::Timeout`]. One that is not over within its grace and
/// [`stop_margin`](crate::AgentConfig::stop_margin) after a stop is given up: it ends as TIMED_OUT or CANCELLED, its slot
/// is free, its future is dropped at its next wait, and its output since then is not taken. What it left in the world is
/// out of reach of the session.
#[async_trait]
pub trait Executor: Debug + Send + Sync + 'static {
    /// Runs one attempt to its end and says how it ended. Everything that can go wrong is in the report, whose
    /// `log_end` the session sets. When it returns, no process of the attempt lives.
    async fn run(&self, job: Job, stop: StopSignal, output: Output) -> AttemptReport;
}

/// One attempt to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// Which.
    pub attempt: AttemptId,
    /// What.
    pub spec: JobSpec,
    /// The values of the secrets that the spec names.
    pub secrets: Vec<(SecretName, SecretValue)>,
    /// Where its artifacts come from and go to.
    pub artifacts: Arc<dyn ArtifactChannel>,
}

/// Why and how softly to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// Why.
    pub reason: StopReason,
    /// Between TERM and KILL; zero kills at once.
    pub grace: Duration,
}

/// Why an attempt is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody asked.
    Cancel,
    /// It ran too long.
    Timeout,
    /// The agent itself has to go: the platform should run it again elsewhere.
    Evict,
    /// It is not the present attempt any more, or its worker goes: nobody waits for its result.
    Abandon,
}

/// Tells an executor to stop: empty until then.
pub type StopSignal = watch::Receiver<Option<Stop>>;

/// Where an executor tells what happens.
#[derive(Debug, Clone)]
pub struct Output {
    pub(crate) attempt: AttemptId,
    pub(crate) events: mpsc::Sender<JobEvent>,
    pub(crate) window: Arc<Semaphore>,
    pub(crate) process: ProcessSpan,
}

/// Since when the process of an attempt runs, on the monotonic clock in microseconds. Its limits count only while it has
/// one: not while its artifacts are on their way, nor while the platform does not take its output.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProcessSpan(Arc<AtomicU64>);

impl ProcessSpan {
    const NO_PROCESS: u64 = u64::MAX;

    /// It has a process from now on.
    pub(crate) fn start(&self, now: Duration) {
        let micros = u64::try_from(now.as_micros()).unwrap_or(Self::NO_PROCESS - 1);
        self.0.store(micros, Ordering::Relaxed);
    }

    /// It has none any more, or not yet.
    pub(crate) fn stop(&self) {
        self.0.store(Self::NO_PROCESS, Ordering::Relaxed);
    }

    /// Since when it has one; zero before anything was said of it.
    pub(crate) fn since(&self) -> Option<Duration> {
        let micros = self.0.load(Ordering::Relaxed);
        (micros != Self::NO_PROCESS).then_some(Duration::from_micros(micros))
    }
}

/// Bytes of output that one attempt may have unacknowledged; beyond it the job's pipe is left full.
pub(crate) const WINDOW: usize = 1 << 20;

/// What an executor tells its session.
#[derive(Debug)]
pub(crate) enum JobEvent {
    Started {
        attempt: AttemptId,
        at: Timestamp,
    },
    Logs {
        attempt: AttemptId,
        chunks: Vec<Chunk>,
    },
    Finished {
        attempt: AttemptId,
        report: AttemptReport,
    },
    /// It never started and is to run elsewhere, or later. The report that follows counts for nothing.
    GivenBack {
        attempt: AttemptId,
    },
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it was written.
    pub stream: LogStream,
    /// When it was read.
    pub at: Timestamp,
    /// What.
    pub bytes: Bytes,
}

impl Output {
    /// Says that the process runs.
    pub async fn started(&self, at: Timestamp) {
        // A session that is gone needs no news.
        let _ = self.events.send(JobEvent::Started { attempt: self.attempt, at }).await;
    }

    /// Gives an attempt back that never started, at no cost to its job; the report that the executor returns then counts
    /// for nothing.
    pub async fn give_back(&self) {
        // A session that is gone needs no news.
        let _ = self.events.send(JobEvent::GivenBack { attempt: self.attempt }).await;
    }

    /// Writes one piece, waiting for room.
    pub async fn write(&self, chunk: Chunk) {
        if let Some(room) = self.room(chunk.bytes.len()).await {
            room.fill(vec![chunk]);
        }
    }

    /// Waits until so many bytes may be sent; `None` when nobody listens any more. Cancel safe.
    pub(crate) async fn room(&self, bytes: usize) -> Option<Room<'_>> {
        let permits = bytes.clamp(1, WINDOW) as u32;
        let window = self.window.clone().acquire_many_owned(permits).await.ok()?;
        let slot = self.events.reserve().await.ok()?;
        Some(Room { attempt: self.attempt, window, slot })
    }
}

/// Room for one batch.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    attempt: AttemptId,
    window: OwnedSemaphorePermit,
    slot: mpsc::Permit<'a, JobEvent>,
}

impl Room<'_> {
    /// Sends the batch; its bytes count until the platform acknowledges them.
    pub(crate) fn fill(self, chunks: Vec<Chunk>) {
        self.window.forget();
        self.slot.send(JobEvent::Logs { attempt: self.attempt, chunks });
    }
}

/// The permits that a batch holds.
pub(crate) fn weight(chunks: &[Chunk]) -> usize {
    chunks.iter().map(|chunk| chunk.bytes.len()).sum::<usize>().clamp(1, WINDOW)
}
