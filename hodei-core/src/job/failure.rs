//! Outcomes of jobs and attempts, and the causes of failures.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a job, or one attempt at it, ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The main process exited with 0.
    Succeeded,
    /// The attempt failed.
    Failed(FailureCause),
    /// The job was cancelled before it ended by itself.
    Cancelled,
    /// The job ran longer than its timeout, or did not start by its `start_by`.
    TimedOut,
}

impl Outcome {
    /// Returns the cause that a retry policy looks at; `None` for success and cancellation.
    pub fn cause(&self) -> Option<CauseKind> {
        match self {
            Outcome::Succeeded | Outcome::Cancelled => None,
            Outcome::Failed(cause) => Some(cause.kind()),
            Outcome::TimedOut => Some(CauseKind::Timeout),
        }
    }
}

/// Why an attempt failed, with the known details.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    /// The program is not on the job's PATH, or does not exist.
    CommandNotFound(String),
    /// The program exists but may not be executed.
    PermissionDenied(String),
    /// A file that the job needs, such as its working directory, is not available.
    FileNotFound(String),
    /// The system could not start the process.
    Spawn(String),
    /// A secret of the job could not be delivered to it.
    SecretInjection(String),
    /// The main process exited with this code, which is not 0.
    Exit(i32),
    /// The main process was killed by this signal.
    Signal(i32),
    /// The kernel killed processes of the job for exceeding their memory limit.
    OutOfMemory(String),
    /// An input of the job is missing, or one of its outputs could not be kept.
    Artifact(String),
    /// Reading or writing for the job failed.
    Io(String),
    /// The platform failed, such as the worker.
    Infrastructure(String),
    /// The worker is gone, and the end of the attempt is unknown.
    Lost(String),
    /// The worker did not start the attempt in time.
    DispatchTimeout,
    /// No configured provider can run the job any more.
    Configuration(String),
}

impl FailureCause {
    /// Returns the cause without its details.
    pub fn kind(&self) -> CauseKind {
        match self {
            Self::CommandNotFound(_) => CauseKind::CommandNotFound,
            Self::PermissionDenied(_) => CauseKind::PermissionDenied,
            Self::FileNotFound(_) => CauseKind::FileNotFound,
            Self::Spawn(_) => CauseKind::Spawn,
            Self::SecretInjection(_) => CauseKind::SecretInjection,
            Self::Exit(_) => CauseKind::Exit,
            Self::Signal(_) => CauseKind::Signal,
            Self::OutOfMemory(_) => CauseKind::OutOfMemory,
            Self::Artifact(_) => CauseKind::Artifact,
            Self::Io(_) => CauseKind::Io,
            Self::Infrastructure(_) => CauseKind::Infrastructure,
            Self::Lost(_) => CauseKind::Lost,
            Self::DispatchTimeout => CauseKind::DispatchTimeout,
            Self::Configuration(_) => CauseKind::Configuration,
        }
    }
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandNotFound(program) => write!(f, "command not found: {program}"),
            Self::PermissionDenied(program) => write!(f, "permission denied: {program}"),
            Self::FileNotFound(path) => write!(f, "file not found: {path}"),
            Self::Spawn(why) => write!(f, "the process could not be started: {why}"),
            Self::SecretInjection(why) => write!(f, "a secret could not be delivered to the job: {why}"),
            Self::Exit(code) => write!(f, "exited with {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::OutOfMemory(limit) => write!(f, "out of memory: {limit}"),
            Self::Artifact(why) => write!(f, "its artifacts: {why}"),
            Self::Io(why) => write!(f, "input or output failed: {why}"),
            Self::Infrastructure(why) => write!(f, "the platform failed: {why}"),
            Self::Lost(why) => write!(f, "the worker was lost and how the job ended is unknown: {why}"),
            Self::DispatchTimeout => write!(f, "the worker did not start the job in time"),
            Self::Configuration(why) => write!(f, "no provider can run this job: {why}"),
        }
    }
}

/// The kinds of [`FailureCause`], and the timeout. Retry policies name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is documented at FailureCause")]
pub enum CauseKind {
    CommandNotFound,
    PermissionDenied,
    FileNotFound,
    Spawn,
    SecretInjection,
    Exit,
    Signal,
    Timeout,
    OutOfMemory,
    Artifact,
    Io,
    Infrastructure,
    Lost,
    DispatchTimeout,
    Configuration,
}

impl CauseKind {
    /// Every kind.
    pub const ALL: [CauseKind; 15] = [
        Self::CommandNotFound,
        Self::PermissionDenied,
        Self::FileNotFound,
        Self::Spawn,
        Self::SecretInjection,
        Self::Exit,
        Self::Signal,
        Self::Timeout,
        Self::OutOfMemory,
        Self::Artifact,
        Self::Io,
        Self::Infrastructure,
        Self::Lost,
        Self::DispatchTimeout,
        Self::Configuration,
    ];

    /// Whether the job itself causes it. Other causes are the platform's, and are charged to the infrastructure budget.
    pub fn is_users(self) -> bool {
        !matches!(self, Self::Infrastructure | Self::Lost | Self::DispatchTimeout | Self::Io)
    }

    /// Whether a second run could end differently. A retry policy that names no causes covers these.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Exit | Self::Signal | Self::Timeout | Self::Spawn)
    }

    /// Returns the name in texts and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CommandNotFound => "command_not_found",
            Self::PermissionDenied => "permission_denied",
            Self::FileNotFound => "file_not_found",
            Self::Spawn => "spawn",
            Self::SecretInjection => "secret_injection",
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Timeout => "timeout",
            Self::OutOfMemory => "out_of_memory",
            Self::Artifact => "artifact",
            Self::Io => "io",
            Self::Infrastructure => "infrastructure",
            Self::Lost => "lost",
            Self::DispatchTimeout => "dispatch_timeout",
            Self::Configuration => "configuration",
        }
    }
}

impl std::str::FromStr for CauseKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            format!("`{text}` is not a cause: use one of {}", names.join(", "))
        })
    }
}

impl fmt::Display for CauseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
