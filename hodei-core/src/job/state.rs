//! The job aggregate: its states, its last attempt, and its tenant. The transitions are in `machine.rs`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::tenant::TenantId;
use super::{CauseKind, JobSpec, Outcome, Usage};
use crate::artifact::Artifact;
use crate::id::{AttemptId, JobId, WorkerId};
use crate::time::Timestamp;

/// The job aggregate. Only [`step`](super::step) computes its next state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub(super) id: JobId,
    pub(super) tenant: TenantId,
    pub(super) spec: Arc<JobSpec>,
    pub(super) version: u64,
    pub(super) state: JobState,
    pub(super) attempt: u32,
    pub(super) tally: Tally,
    pub(super) retry_of: Option<JobId>,
    pub(super) created_at: Timestamp,
}

/// The part of a job that changes. A store keeps it apart from the fixed part: id, tenant and spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Version, which rises by one with each transition, from 1.
    pub version: u64,
    /// State of the job.
    pub state: JobState,
    /// Number of the last attempt; 0 before the first.
    pub attempt: u32,
    /// Closed attempts, counted by the budget they were charged to.
    pub tally: Tally,
    /// The job that this one repeats, after a manual retry.
    pub retry_of: Option<JobId>,
    /// Time of the submit.
    pub created_at: Timestamp,
}

impl JobRecord {
    /// Rebuilds the job from its record and its fixed part.
    pub fn restore(self, id: JobId, tenant: TenantId, spec: Arc<JobSpec>) -> Job {
        let Self { version, state, attempt, tally, retry_of, created_at } = self;
        Job { id, tenant, spec, version, state, attempt, tally, retry_of, created_at }
    }
}

/// The state of a job. Each state holds its own data, so that an invalid state such as "assigned without a worker"
/// cannot be expressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waiting for a point in time.
    Created {
        /// When it becomes runnable.
        until: Timestamp,
        /// Why it waits.
        reason: WaitReason,
    },
    /// Runnable now.
    Pending {
        /// Since when; the older job goes first.
        since: Timestamp,
    },
    /// Assigned to a worker, not known to have started.
    Assigned(Assignment),
    /// Running on a worker.
    Running {
        /// Its assignment.
        assignment: Assignment,
        /// Start of its process.
        started_at: Timestamp,
    },
    /// Ended, which is final.
    Ended(Ending),
}

/// Why a job in CREATED waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// For its `not_before`.
    NotBefore,
    /// For the backoff before its next attempt.
    Backoff,
}

/// The assignment of a job to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The worker.
    pub worker: WorkerId,
    /// Number of this assignment among those of the worker; it rises.
    pub dispatch: u64,
    /// Time of the assignment.
    pub at: Timestamp,
    /// True once a cancel was requested: no further attempt follows.
    pub cancel_requested: bool,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// The final outcome.
    pub outcome: Outcome,
    /// Time of the end.
    pub at: Timestamp,
    /// The attempt that decided the outcome, when there was one.
    pub run: Option<Run>,
}

/// The last attempt of a job that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its worker.
    pub worker: WorkerId,
    /// Start of its process, if it started.
    pub started_at: Option<Timestamp>,
    /// End of its process.
    pub finished_at: Timestamp,
    /// Its exit code, when it exited.
    pub exit_code: Option<i32>,
    /// Number of log chunks that it wrote. Each is stored, or a gap record stands in its place.
    pub log_end: u64,
    /// Processor time and memory that it used, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The files that were kept of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
}

/// The report of an agent about an attempt that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptReport {
    /// The outcome. Cancelled or timed out only when that came before the process ended by itself.
    pub outcome: Outcome,
    /// Exit code of the main process, when it exited.
    pub exit_code: Option<i32>,
    /// Start of the process; `None` when it never started.
    pub started_at: Option<Timestamp>,
    /// End of the process.
    pub finished_at: Timestamp,
    /// Number of log chunks that it wrote.
    pub log_end: u64,
    /// Processor time and memory that it used, where that was measured.
    pub usage: Option<Usage>,
    /// The files that were stored of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// Whether a stop of its worker ended it. Then it runs again without a charge, if the job may run twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
}

impl AttemptReport {
    /// Makes the report of an attempt whose process never started.
    pub fn unstarted(outcome: Outcome, finished_at: Timestamp) -> Self {
        Self {
            outcome,
            exit_code: None,
            started_at: None,
            finished_at,
            log_end: 0,
            usage: None,
            artifacts: Vec::new(),
            interrupted: false,
        }
    }
}

/// Closed attempts, counted by the budget they were charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Charged to the user's retries.
    pub user: u32,
    /// Charged to the infrastructure budget.
    pub infrastructure: u32,
    /// Charged to no budget; at most [`Tally::MAX_UNCHARGED`].
    pub uncharged: u32,
    /// Lost with their worker after they had begun, or may have begun. Each is counted in one of the other fields too.
    #[serde(default)]
    pub lost: u32,
}

impl Tally {
    /// Maximum number of uncharged attempts; after that an attempt is charged, or a job that is given back fails.
    pub const MAX_UNCHARGED: u32 = 20;
}

impl Job {
    /// Returns the job as a list shows it: see [`JobSpec::listing`].
    pub fn listing(&self) -> Self {
        Self { spec: Arc::new(self.spec.listing()), ..self.clone() }
    }

    /// Returns the part of the job that transitions may change.
    pub fn record(&self) -> JobRecord {
        JobRecord {
            version: self.version,
            state: self.state.clone(),
            attempt: self.attempt,
            tally: self.tally,
            retry_of: self.retry_of,
            created_at: self.created_at,
        }
    }

    /// Returns the id.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Returns the tenant that owns the job.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Returns the spec.
    pub fn spec(&self) -> &Arc<JobSpec> {
        &self.spec
    }

    /// Version, which rises by one with each transition, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the state.
    pub fn state(&self) -> &JobState {
        &self.state
    }

    /// Returns the state without its data.
    pub fn status(&self) -> JobStatus {
        match &self.state {
            JobState::Created { .. } => JobStatus::Created,
            JobState::Pending { .. } => JobStatus::Pending,
            JobState::Assigned(_) => JobStatus::Assigned,
            JobState::Running { .. } => JobStatus::Running,
            JobState::Ended(ending) => JobStatus::of(&ending.outcome),
        }
    }

    /// Number of the last attempt; 0 before the first.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the id of the last attempt; its number is 0 before the first.
    pub fn attempt_id(&self) -> AttemptId {
        AttemptId { job: self.id, number: self.attempt }
    }

    /// Returns the closed attempts, counted by the budget they were charged to.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Returns the job that this one repeats, after a manual retry.
    pub fn retry_of(&self) -> Option<JobId> {
        self.retry_of
    }

    /// Returns the longest duration that its current backoff can have.
    pub fn longest_backoff(&self) -> Duration {
        let Tally { user, infrastructure, .. } = self.tally;
        self.spec.retry().backoff.delay(user.max(infrastructure), 0.0)
    }

    /// Returns the time of the submit.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// Returns the assignment of its open attempt, when it is assigned or running.
    pub fn assignment(&self) -> Option<&Assignment> {
        match &self.state {
            JobState::Assigned(assignment) | JobState::Running { assignment, .. } => Some(assignment),
            _ => None,
        }
    }

    /// Whether `attempt` is the current one, open, and assigned to `worker`.
    pub fn is_held_by(&self, worker: WorkerId, attempt: AttemptId) -> bool {
        self.attempt_id() == attempt && self.assignment().is_some_and(|at| at.worker == worker)
    }

    /// Returns how the job ended, if it ended.
    pub fn ending(&self) -> Option<&Ending> {
        match &self.state {
            JobState::Ended(ending) => Some(ending),
            _ => None,
        }
    }

    /// Whether the job ended.
    pub fn is_terminal(&self) -> bool {
        self.ending().is_some()
    }

    /// Returns the worker of the open attempt or, once the job ended, of the last attempt.
    pub fn worker(&self) -> Option<WorkerId> {
        let ended = self.ending().and_then(|ending| ending.run.as_ref()).map(|run| run.worker);
        self.assignment().map(|assignment| assignment.worker).or(ended)
    }

    /// Returns the start of the process of its current or last attempt.
    pub fn started_at(&self) -> Option<Timestamp> {
        match &self.state {
            JobState::Running { started_at, .. } => Some(*started_at),
            JobState::Ended(ending) => ending.run.as_ref().and_then(|run| run.started_at),
            _ => None,
        }
    }

    /// Returns the files that were kept of its last attempt; empty before its end.
    pub fn artifacts(&self) -> &[Artifact] {
        self.ending().and_then(|ending| ending.run.as_ref()).map_or(&[], |run| &run.artifacts)
    }

    /// Returns why the job failed or timed out.
    pub fn cause(&self) -> Option<CauseKind> {
        self.ending().and_then(|ending| ending.outcome.cause())
    }
}

/// The states of a job by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobStatus {
    /// Waiting for a point in time.
    Created,
    /// Runnable now.
    Pending,
    /// Assigned to a worker.
    Assigned,
    /// Running.
    Running,
    /// Ended with success.
    Succeeded,
    /// Ended with a failure.
    Failed,
    /// Cancelled.
    Cancelled,
    /// Ran or waited too long.
    TimedOut,
}

impl JobStatus {
    /// Every status.
    pub const ALL: [JobStatus; 8] = [
        Self::Created,
        Self::Pending,
        Self::Assigned,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
    ];

    /// Returns the terminal status that an outcome leads to.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Succeeded,
            Outcome::Failed(_) => Self::Failed,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::TimedOut => Self::TimedOut,
        }
    }

    /// Whether the status is one of the four final ones.
    pub fn is_terminal(self) -> bool {
        self >= Self::Succeeded
    }

    /// Returns the name in texts and JSON, in upper case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Pending => "PENDING",
            Self::Assigned => "ASSIGNED",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::TimedOut => "TIMED_OUT",
        }
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobStatus {
    type Err = String;

    /// Accepts any case.
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        Self::ALL.into_iter().find(|status| status.as_str() == upper).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|status| status.as_str()).collect();
            format!("`{text}` is not a state of a job: use one of {}", names.join(", "))
        })
    }
}
