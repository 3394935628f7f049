use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CauseKind, JobSpec, Outcome, Usage};
use crate::artifact::Artifact;
use crate::id::{AttemptId, JobId, WorkerId};
use crate::name;
use crate::time::Timestamp;

/// The job aggregate. Only [`step`](super::step) makes a new state of it.
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

/// What changes of a job: a store keeps it apart from what never does, which is id, tenant and spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Rises by one with each transition, from 1.
    pub version: u64,
    /// Where it stands.
    pub state: JobState,
    /// The number of the last attempt; 0 before the first.
    pub attempt: u32,
    /// Closed attempts by who pays.
    pub tally: Tally,
    /// The job that this one repeats by hand.
    pub retry_of: Option<JobId>,
    /// When it was submitted.
    pub created_at: Timestamp,
}

impl JobRecord {
    /// The job as it was when the record was taken of it.
    pub fn restore(self, id: JobId, tenant: TenantId, spec: Arc<JobSpec>) -> Job {
        let Self { version, state, attempt, tally, retry_of, created_at } = self;
        Job { id, tenant, spec, version, state, attempt, tally, retry_of, created_at }
    }
}

/// Where a job stands. What belongs to a state is inside it, so that "assigned without a worker" has no
/// spelling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waiting for a point in time.
    Created {
        /// When it becomes runnable.
        until: Timestamp,
        /// What it waits for.
        reason: WaitReason,
    },
    /// Runnable now.
    Pending {
        /// Since when; the older goes first.
        since: Timestamp,
    },
    /// Given to a worker, not known to have started.
    Assigned(Assignment),
    /// Running on a worker.
    Running {
        /// Where.
        assignment: Assignment,
        /// Since when.
        started_at: Timestamp,
    },
    /// Over, for ever.
    Ended(Ending),
}

/// What a job in CREATED waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// Its own `not_before`.
    NotBefore,
    /// The backoff before its next attempt.
    Backoff,
}

/// A job given to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The worker.
    pub worker: WorkerId,
    /// The number of this assignment among all of its worker; it rises.
    pub dispatch: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// True once it was asked to stop; no attempt follows then.
    pub cancel_requested: bool,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// The one outcome.
    pub outcome: Outcome,
    /// When it was decided.
    pub at: Timestamp,
    /// The attempt that decided it, when there was one.
    pub run: Option<Run>,
}

/// The last attempt of a job that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Where it ran.
    pub worker: WorkerId,
    /// When its process started, if it did.
    pub started_at: Option<Timestamp>,
    /// When its process ended.
    pub finished_at: Timestamp,
    /// Its exit code, when it exited.
    pub exit_code: Option<i32>,
    /// The number of log chunks it wrote; all of them are stored, or a gap record says what is missing.
    pub log_end: u64,
    /// What it used, where somebody counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What of its files is kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
}

/// What an agent says of an attempt that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptReport {
    /// How it ended. Cancelled and timed out only when that came before the process ended by itself.
    pub outcome: Outcome,
    /// The exit code of the main process, when it exited.
    pub exit_code: Option<i32>,
    /// When the process started; `None` when it never did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// The number of log chunks it wrote.
    pub log_end: u64,
    /// What it used, where somebody counted.
    pub usage: Option<Usage>,
    /// What of its files was stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// Its worker was told to stop, and that ended it: it runs again at no cost, if it may run twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
}

impl AttemptReport {
    /// The end of an attempt whose process never started.
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

/// Closed attempts, counted by who pays for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Charged to the user's retries.
    pub user: u32,
    /// Charged to the infrastructure budget.
    pub infrastructure: u32,
    /// Charged to nobody; at most [`Tally::MAX_UNCHARGED`].
    pub uncharged: u32,
    /// Lost with their worker after they had begun, or may have; each is charged as one of the others too.
    #[serde(default)]
    pub lost: u32,
}

impl Tally {
    /// Attempts that may be given back before the job is ended.
    pub const MAX_UNCHARGED: u32 = 20;
}

/// Whose a job is. It comes from who submits, never from the spec.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// The longest name, in bytes.
    pub const LONGEST: usize = 64;

    /// A tenant by name, whatever it is; [`FromStr`](std::str::FromStr) takes names that people may give.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for TenantId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for TenantId {
    type Err = ParseTenantError;

    fn from_str(text: &str) -> Result<Self, ParseTenantError> {
        if name::is_plain(text, Self::LONGEST) {
            Ok(Self::new(text))
        } else {
            Err(ParseTenantError(text.chars().take(40).collect()))
        }
    }
}

/// A text that names no tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no name of a tenant: it has 1 to 64 letters, digits, `_`, `-` or `.`, and begins with no dot"
)]
pub struct ParseTenantError(String);

impl Default for TenantId {
    /// The tenant of a platform that has one.
    fn default() -> Self {
        Self::new("default")
    }
}

impl Job {
    /// The job as a list has it: see [`JobSpec::listing`].
    pub fn listing(&self) -> Self {
        Self { spec: Arc::new(self.spec.listing()), ..self.clone() }
    }

    /// All of it that a transition may change.
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

    /// Its id.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Whose it is.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// What it runs.
    pub fn spec(&self) -> &Arc<JobSpec> {
        &self.spec
    }

    /// Rises by one with each transition, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Where it stands.
    pub fn state(&self) -> &JobState {
        &self.state
    }

    /// Where it stands, without data.
    pub fn status(&self) -> JobStatus {
        match &self.state {
            JobState::Created { .. } => JobStatus::Created,
            JobState::Pending { .. } => JobStatus::Pending,
            JobState::Assigned(_) => JobStatus::Assigned,
            JobState::Running { .. } => JobStatus::Running,
            JobState::Ended(ending) => JobStatus::of(&ending.outcome),
        }
    }

    /// The number of the last attempt; 0 before the first.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The last attempt, when there was one.
    pub fn attempt_id(&self) -> AttemptId {
        AttemptId { job: self.id, number: self.attempt }
    }

    /// Closed attempts by who pays.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The job that this one repeats by hand.
    pub fn retry_of(&self) -> Option<JobId> {
        self.retry_of
    }

    /// The longest that its present backoff can be.
    pub fn longest_backoff(&self) -> Duration {
        let Tally { user, infrastructure, .. } = self.tally;
        self.spec.retry().backoff.delay(user.max(infrastructure), 0.0)
    }

    /// When it was submitted.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// Its open attempt, when it is assigned or running.
    pub fn assignment(&self) -> Option<&Assignment> {
        match &self.state {
            JobState::Assigned(assignment) | JobState::Running { assignment, .. } => Some(assignment),
            _ => None,
        }
    }

    /// Whether an attempt is the present one, and is this worker's.
    pub fn is_held_by(&self, worker: WorkerId, attempt: AttemptId) -> bool {
        self.attempt_id() == attempt && self.assignment().is_some_and(|at| at.worker == worker)
    }

    /// How it ended, when it did.
    pub fn ending(&self) -> Option<&Ending> {
        match &self.state {
            JobState::Ended(ending) => Some(ending),
            _ => None,
        }
    }

    /// True when it ended.
    pub fn is_terminal(&self) -> bool {
        self.ending().is_some()
    }

    /// The worker of the present attempt or, when it ended, of the last.
    pub fn worker(&self) -> Option<WorkerId> {
        let ended = self.ending().and_then(|ending| ending.run.as_ref()).map(|run| run.worker);
        self.assignment().map(|assignment| assignment.worker).or(ended)
    }

    /// When the process of its present or last attempt started.
    pub fn started_at(&self) -> Option<Timestamp> {
        match &self.state {
            JobState::Running { started_at, .. } => Some(*started_at),
            JobState::Ended(ending) => ending.run.as_ref().and_then(|run| run.started_at),
            _ => None,
        }
    }

    /// The files of its last attempt that are kept; none before its end.
    pub fn artifacts(&self) -> &[Artifact] {
        self.ending().and_then(|ending| ending.run.as_ref()).map_or(&[], |run| &run.artifacts)
    }

    /// Why it failed or timed out.
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
    /// Given to a worker.
    Assigned,
    /// Running.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Cancelled.
    Cancelled,
    /// Ran, or waited, too long.
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

    /// The terminal status that an outcome leads to.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Succeeded,
            Outcome::Failed(_) => Self::Failed,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::TimedOut => Self::TimedOut,
        }
    }

    /// True for the last four.
    pub fn is_terminal(self) -> bool {
        self >= Self::Succeeded
    }

    /// The name in texts and JSON: upper case.
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

    /// Any case.
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        Self::ALL.into_iter().find(|status| status.as_str() == upper).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|status| status.as_str()).collect();
            format!("`{text}` is not a state of a job: use one of {}", names.join(", "))
        })
    }
}
