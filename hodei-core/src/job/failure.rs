use std::fmt;

use serde::{Deserialize, Serialize};

/// How a job, or one attempt at it, ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The main process exited with 0.
    Succeeded,
    /// It did not.
    Failed(FailureCause),
    /// It was cancelled before it ended by itself.
    Cancelled,
    /// It ran longer than its timeout, or did not start by its `start_by`.
    TimedOut,
}

impl Outcome {
    /// The cause that retries are counted by; `None` for success and cancellation.
    pub fn cause(&self) -> Option<CauseKind> {
        match self {
            Outcome::Succeeded | Outcome::Cancelled => None,
            Outcome::Failed(cause) => Some(cause.kind()),
            Outcome::TimedOut => Some(CauseKind::Timeout),
        }
    }
}

/// Why an attempt failed, with what is known about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    /// The program is not on the job's PATH, or does not exist.
    CommandNotFound(String),
    /// The program exists and may not be executed.
    PermissionDenied(String),
    /// A file the job needs, such as its working directory, cannot be had.
    FileNotFound(String),
    /// The system could not start the process.
    Spawn(String),
    /// A secret that the job wants cannot be given to it.
    SecretInjection(String),
    /// The main process exited with this code, not 0.
    Exit(i32),
    /// The main process was killed by this signal.
    Signal(i32),
    /// The kernel killed processes of it that passed their limit of memory.
    OutOfMemory(String),
    /// A file that the job is to be given is not there, or one that is to be kept of it cannot be.
    Artifact(String),
    /// Reading or writing for the job failed.
    Io(String),
    /// The platform itself failed: the worker could not do its part.
    Infrastructure(String),
    /// The worker is gone and how the attempt ended is unknown.
    Lost(String),
    /// The worker did not start the attempt in time.
    DispatchTimeout,
    /// No provider can run this job any more.
    Configuration(String),
}

impl FailureCause {
    /// The cause without its data.
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
            Self::CommandNotFound(what) => write!(f, "command not found: {what}"),
            Self::PermissionDenied(what) => write!(f, "permission denied: {what}"),
            Self::FileNotFound(what) => write!(f, "file not found: {what}"),
            Self::Spawn(why) => write!(f, "the process could not be started: {why}"),
            Self::SecretInjection(why) => write!(f, "a secret could not be given to the job: {why}"),
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

/// The kinds of [`FailureCause`], and the timeout: what a retry policy names.
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

    /// Whether the job itself brought it about; otherwise it is the platform's, and charged to the
    /// infrastructure budget.
    pub fn is_users(self) -> bool {
        !matches!(self, Self::Infrastructure | Self::Lost | Self::DispatchTimeout | Self::Io)
    }

    /// Whether running the same thing again could end otherwise: the user's causes that a retry policy
    /// covers when it names none.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Exit | Self::Signal | Self::Timeout | Self::Spawn)
    }

    /// The name in texts and JSON.
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
