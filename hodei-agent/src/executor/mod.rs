//! Executors, which run attempts: the port, and the executor that runs them as processes.

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
pub(crate) use secrets::{MEMORY_DIR, is_memory};
pub use start::helper::exec_in;
pub use start::start_state::StartState;
pub use workspace::Workspaces;

/// Runs attempts, at most as many at once as the agent has slots.
///
/// Duties: [`run`](Self::run) reports [`started`](Output::started) within the dispatch timeout, ends the attempt at the
/// timeout of its spec and after a [`StopSignal`], and never blocks its thread.
///
/// The session limits an executor that fails in these duties. A panic ends the attempt as a failure of the platform,
/// with the message of the panic. An attempt that has not ended a second after its timeout is told to stop, with
/// [`StopReason::Timeout`]. One that has not ended within its grace period plus
/// [`stop_margin`](crate::AgentConfig::stop_margin) after a stop is given up: it ends as TIMED_OUT or CANCELLED, its
/// slot is free, its future is dropped at its next wait, and its later output is dropped. The session cannot clean up
/// the processes and files that such an executor left behind.
#[async_trait]
pub trait Executor: Debug + Send + Sync + 'static {
    /// Runs one attempt to its end and returns its report, which covers every failure. The session sets `log_end`. When
    /// this returns, no process of the attempt lives.
    async fn run(&self, job: Job, stop: StopSignal, output: Output) -> AttemptReport;
}

/// One attempt to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// The attempt.
    pub attempt: AttemptId,
    /// The job's spec.
    pub spec: JobSpec,
    /// The values of the secrets that the spec names.
    pub secrets: Vec<(SecretName, SecretValue)>,
    /// The channel for its artifacts.
    pub artifacts: Arc<dyn ArtifactChannel>,
}

/// A request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The reason.
    pub reason: StopReason,
    /// Time between TERM and KILL; zero kills at once.
    pub grace: Duration,
}

/// Why an attempt is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// A user cancelled the job.
    Cancel,
    /// The attempt ran past its timeout.
    Timeout,
    /// The agent ends: the platform should run the job elsewhere.
    Evict,
    /// The attempt is no longer the current one, or its worker ends: its result is not needed.
    Abandon,
}

/// Tells an executor to stop; `None` until then.
pub type StopSignal = watch::Receiver<Option<Stop>>;

/// The channel through which an executor reports the events of an attempt.
#[derive(Debug, Clone)]
pub struct Output {
    pub(crate) attempt: AttemptId,
    pub(crate) events: mpsc::Sender<JobEvent>,
    pub(crate) window: Arc<Semaphore>,
    pub(crate) process: ProcessSpan,
}

/// When the process of an attempt started, in microseconds of the monotonic clock. The limits of the attempt count only
/// while it has a process: not during transfers of its artifacts, nor while only its remaining output waits for the
/// platform.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProcessSpan(Arc<AtomicU64>);

impl ProcessSpan {
    const NO_PROCESS: u64 = u64::MAX;

    /// Notes that the process starts now.
    pub(crate) fn start(&self, now: Duration) {
        let micros = u64::try_from(now.as_micros()).unwrap_or(Self::NO_PROCESS - 1);
        self.0.store(micros, Ordering::Relaxed);
    }

    /// Notes that there is no process, either not yet or no longer.
    pub(crate) fn stop(&self) {
        self.0.store(Self::NO_PROCESS, Ordering::Relaxed);
    }

    /// Returns when the process started, `None` if there is none. Zero before the first note.
    pub(crate) fn since(&self) -> Option<Duration> {
        let micros = self.0.load(Ordering::Relaxed);
        (micros != Self::NO_PROCESS).then_some(Duration::from_micros(micros))
    }
}

/// Maximum unacknowledged output of one attempt, in bytes. Beyond it, the job's pipe is no longer read.
pub(crate) const OUTPUT_WINDOW_BYTES: usize = 1 << 20;

/// An event that an executor reports to its session.
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
    /// The attempt never started and should run elsewhere or later. The report that follows is ignored.
    GivenBack {
        attempt: AttemptId,
    },
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The stream that it was written to.
    pub stream: LogStream,
    /// When it was read.
    pub at: Timestamp,
    /// The content.
    pub bytes: Bytes,
}

impl Output {
    /// Reports that the process runs.
    pub async fn started(&self, at: Timestamp) {
        // The session may have ended, which is no error.
        let _ = self.events.send(JobEvent::Started { attempt: self.attempt, at }).await;
    }

    /// Gives back an attempt that never started, free of charge. The report that the executor returns is then ignored.
    pub async fn give_back(&self) {
        // The session may have ended, which is no error.
        let _ = self.events.send(JobEvent::GivenBack { attempt: self.attempt }).await;
    }

    /// Writes one chunk. Waits for room.
    pub async fn write(&self, chunk: Chunk) {
        if let Some(room) = self.room(chunk.bytes.len()).await {
            room.fill(vec![chunk]);
        }
    }

    /// Waits until this many bytes may be sent. Returns `None` if the session no longer takes output. Cancel safe.
    pub(crate) async fn room(&self, bytes: usize) -> Option<Room<'_>> {
        let permits = bytes.clamp(1, OUTPUT_WINDOW_BYTES) as u32;
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

/// Returns the number of permits that a batch holds.
pub(crate) fn weight(chunks: &[Chunk]) -> usize {
    chunks.iter().map(|chunk| chunk.bytes.len()).sum::<usize>().clamp(1, OUTPUT_WINDOW_BYTES)
}
