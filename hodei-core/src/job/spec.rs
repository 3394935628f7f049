//! The spec of a job: the command and how to run it, valid by construction.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Command, Constraint, JobResources, Labels, RetryPolicy};
use crate::artifact::{ArtifactInput, ArtifactOutput};
use crate::secret::SecretRef;
use crate::time::Timestamp;

/// The command of a job and how to run it: an immutable value, valid by construction.
///
/// ```
/// use hodei_core::job::JobSpec;
/// let spec = JobSpec::command(["echo", "hello"]).env("LANG", "C").build()?;
/// assert_eq!(spec.what().summary(), "echo hello");
/// # Ok::<(), hodei_core::job::SpecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    pub(super) name: Option<String>,
    pub(super) command: Command,
    pub(super) image: Option<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) working_dir: Option<String>,
    #[serde(with = "bytes_as_text")]
    pub(super) stdin: Bytes,
    pub(super) timeout: Option<Duration>,
    pub(super) kill_grace: Duration,
    pub(super) resources: JobResources,
    pub(super) constraints: Vec<Constraint>,
    pub(super) priority: Priority,
    pub(super) retry: RetryPolicy,
    pub(super) at_most_once: bool,
    pub(super) idempotency_key: Option<String>,
    pub(super) concurrency: Option<Concurrency>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) start_by: Option<Timestamp>,
    pub(super) labels: Labels,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) secrets: Vec<SecretRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) inputs: Vec<ArtifactInput>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) outputs: Vec<ArtifactOutput>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) keep_workspace: bool,
}

impl JobSpec {
    /// Returns the spec for a manual retry: runnable at once, and without an idempotency key.
    pub fn again(&self) -> JobSpec {
        JobSpec { idempotency_key: None, not_before: None, start_by: None, ..self.clone() }
    }

    /// Returns the spec as a list of jobs shows it: without standard input, environment and the text of a script, and
    /// with only the beginning of a long command. It is for display, not to run.
    pub fn listing(&self) -> JobSpec {
        self.clone().into_listing()
    }

    /// Turns the spec into its [`listing`](Self::listing).
    #[must_use]
    pub fn into_listing(self) -> JobSpec {
        JobSpec { command: self.command.listing(), env: BTreeMap::new(), stdin: Bytes::new(), ..self }
    }

    /// Whether the job needs a workspace: it has inputs, outputs or a relative working directory, or keeps its
    /// workspace.
    pub fn needs_workspace(&self) -> bool {
        self.keep_workspace
            || self.working_dir.as_ref().is_some_and(|dir| !dir.starts_with('/'))
            || !self.inputs.is_empty()
            || !self.outputs.is_empty()
    }

    /// Sets the working directory, unless the spec has one or needs a workspace. Callers pass their own current
    /// directory, since the job may run later.
    #[must_use]
    pub fn or_in(mut self, dir: impl Into<String>) -> JobSpec {
        if self.working_dir.is_none() && !self.needs_workspace() {
            self.working_dir = Some(dir.into());
        }
        self
    }

    /// Returns the bytes of all parts that may be long, including standard input.
    pub fn size(&self) -> usize {
        let pairs =
            |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
        self.command.texts().map(str::len).sum::<usize>()
            + pairs(&self.env)
            + pairs(&self.labels)
            + self.working_dir.as_ref().map_or(0, String::len)
            + self.secrets.iter().map(|secret| secret.name.as_str().len()).sum::<usize>()
            + self
                .inputs
                .iter()
                .map(|input| 16 + input.name.as_str().len() + input.path.as_str().len())
                .sum::<usize>()
            + self.outputs.iter().map(|output| output.path.as_str().len()).sum::<usize>()
            + self.constraints.iter().map(|constraint| constraint.to_string().len()).sum::<usize>()
            + self.stdin.len()
    }

    /// Returns the name for display; by default a short form of the command.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.command.summary())
    }

    /// Returns the name that was set, if any.
    pub fn given_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the command.
    pub fn what(&self) -> &Command {
        &self.command
    }

    /// Returns the container image to run in; only providers that run images can honour it.
    pub fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// Returns the variables added to the environment of the job.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// Returns the working directory: an absolute path, or one inside the workspace, created when missing. `None` means
    /// the workspace itself or, where the worker makes none because the job needs none, the directory of the worker.
    pub fn working_dir(&self) -> Option<&str> {
        self.working_dir.as_deref()
    }

    /// Returns the bytes of standard input, which ends after them.
    pub fn stdin(&self) -> &Bytes {
        &self.stdin
    }

    /// Returns the maximum run time, counted from the start of the process.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Returns the time between TERM and KILL.
    pub fn kill_grace(&self) -> Duration {
        self.kill_grace
    }

    /// Returns the resources that the job needs beside one slot.
    pub fn resources(&self) -> &JobResources {
        &self.resources
    }

    /// Returns the constraints on the labels of the worker; all must be met.
    pub fn constraints(&self) -> &[Constraint] {
        &self.constraints
    }

    /// Returns the priority; the higher runs first.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// Returns the retry policy.
    pub fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// Whether the command must never start twice.
    pub fn at_most_once(&self) -> bool {
        self.at_most_once
    }

    /// Returns the idempotency key: a second submit with this key and the same spec finds the first job.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    /// Returns the concurrency limit that the job shares with others of its key.
    pub fn concurrency(&self) -> Option<&Concurrency> {
        self.concurrency.as_ref()
    }

    /// Returns the time before which the job does not start.
    pub fn not_before(&self) -> Option<Timestamp> {
        self.not_before
    }

    /// Returns the time by which the job must start; otherwise it is timed out.
    pub fn start_by(&self) -> Option<Timestamp> {
        self.start_by
    }

    /// Returns the labels of the job, for searches.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Returns the secrets that the job needs, by name: a spec has no values.
    pub fn secrets(&self) -> &[SecretRef] {
        &self.secrets
    }

    /// Returns the artifacts to put into the workspace before the start.
    pub fn inputs(&self) -> &[ArtifactInput] {
        &self.inputs
    }

    /// Returns the files of the workspace to keep.
    pub fn outputs(&self) -> &[ArtifactOutput] {
        &self.outputs
    }

    /// Whether the workspace stays in place after the end of the job, for inspection.
    pub fn keep_workspace(&self) -> bool {
        self.keep_workspace
    }
}

/// A limit on the jobs of a tenant that share a key, over all workers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Concurrency {
    /// The key they share.
    pub key: String,
    /// Maximum number of such jobs assigned or running at once; at least 1.
    pub limit: u32,
}

/// The priority of a job in the queue: the higher goes first. Any `i32`; four values have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Priority(pub i32);

impl Priority {
    /// −10.
    pub const LOW: Priority = Priority(-10);
    /// 0, the default.
    pub const NORMAL: Priority = Priority(0);
    /// 10.
    pub const HIGH: Priority = Priority(10);
    /// 100.
    pub const CRITICAL: Priority = Priority(100);
}

impl std::str::FromStr for Priority {
    type Err = ParsePriorityError;

    fn from_str(text: &str) -> Result<Self, ParsePriorityError> {
        match text {
            "low" => Ok(Self::LOW),
            "normal" => Ok(Self::NORMAL),
            "high" => Ok(Self::HIGH),
            "critical" => Ok(Self::CRITICAL),
            _ => text.parse().map(Self).map_err(|_| ParsePriorityError(text.chars().take(40).collect())),
        }
    }
}

/// The text is not a priority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a priority: write low, normal, high, critical or a whole number of 32 bits")]
pub struct ParsePriorityError(String);

/// Serialises bytes as a text with one character for each byte, so that ASCII stays readable and short in JSON.
mod bytes_as_text {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&bytes.iter().map(|byte| char::from(*byte)).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = text.chars().map(|char| u8::try_from(u32::from(char)));
        bytes.collect::<Result<Vec<u8>, _>>().map(Bytes::from).map_err(D::Error::custom)
    }
}
