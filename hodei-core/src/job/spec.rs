use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::builder::JobSpecBuilder;
use super::{Command, Constraint, JobResources, Labels, RetryPolicy};
use crate::artifact::{ArtifactInput, ArtifactOutput};
use crate::secret::SecretRef;
use crate::time::Timestamp;

/// What to run and how: a value, valid by construction.
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
    /// A spec for a program and its arguments, without a shell.
    pub fn command<I: IntoIterator<Item = S>, S: Into<String>>(argv: I) -> JobSpecBuilder {
        JobSpecBuilder::new(Command::Argv(argv.into_iter().map(Into::into).collect()))
    }

    /// A spec for one line of `/bin/sh`.
    pub fn shell(line: impl Into<String>) -> JobSpecBuilder {
        JobSpecBuilder::new(Command::Shell(line.into()))
    }

    /// A spec for a script; its interpreter is its `#!` line, or `/bin/sh`, unless
    /// [`interpreter`](JobSpecBuilder::interpreter) names one.
    pub fn script(source: impl Into<String>) -> JobSpecBuilder {
        JobSpecBuilder::new(Command::Script { interpreter: None, source: source.into(), extension: None })
    }

    /// The same again, for a retry by hand: runnable at once, and under no idempotency key.
    pub fn again(&self) -> JobSpec {
        JobSpec { idempotency_key: None, not_before: None, start_by: None, ..self.clone() }
    }

    /// The spec as a list of jobs has it: without standard input, environment and the text of a script, with the beginning of
    /// a long command. It is for people to look at, not to run.
    pub fn listing(&self) -> JobSpec {
        self.clone().into_listing()
    }

    /// The same, of a spec that is not wanted whole.
    #[must_use]
    pub fn into_listing(self) -> JobSpec {
        JobSpec { command: self.command.listing(), env: BTreeMap::new(), stdin: Bytes::new(), ..self }
    }

    /// Whether it cannot run without a workspace: it has inputs, outputs or a working directory inside, or keeps it.
    pub fn needs_workspace(&self) -> bool {
        self.keep_workspace
            || self.working_dir.as_ref().is_some_and(|dir| !dir.starts_with('/'))
            || !self.inputs.is_empty()
            || !self.outputs.is_empty()
    }

    /// The same, in this directory if it says nothing of where it runs: that of its caller, for a job that may run later.
    #[must_use]
    pub fn or_in(mut self, dir: impl Into<String>) -> JobSpec {
        if self.working_dir.is_none() && !self.needs_workspace() {
            self.working_dir = Some(dir.into());
        }
        self
    }

    /// Bytes of all that may be long in it, its standard input among them.
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

    /// What people call it; by default a short form of its command.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.command.summary())
    }

    /// The name it was given, if it was.
    pub fn given_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What to run.
    pub fn what(&self) -> &Command {
        &self.command
    }

    /// The container image to run in; only for a provider that runs images.
    pub fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// Variables added to the job's environment.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// Where in its workspace it runs; created when missing. `None` means the workspace itself, or where its worker has
    /// none for jobs that need none, the worker's own directory.
    pub fn working_dir(&self) -> Option<&str> {
        self.working_dir.as_deref()
    }

    /// Standard input; at its end after these bytes.
    pub fn stdin(&self) -> &Bytes {
        &self.stdin
    }

    /// The longest run, counted from the start of the process.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// How long a process gets between TERM and KILL.
    pub fn kill_grace(&self) -> Duration {
        self.kill_grace
    }

    /// What it takes of a worker beside one slot.
    pub fn resources(&self) -> &JobResources {
        &self.resources
    }

    /// Conditions on the worker's labels; all must be met.
    pub fn constraints(&self) -> &[Constraint] {
        &self.constraints
    }

    /// The higher runs first.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// When a failed attempt is followed by another.
    pub fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// True when the command must never start twice.
    pub fn at_most_once(&self) -> bool {
        self.at_most_once
    }

    /// A second submit with this key and the same spec finds the first job.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    /// How many jobs of one key may run at once.
    pub fn concurrency(&self) -> Option<&Concurrency> {
        self.concurrency.as_ref()
    }

    /// Not started before this.
    pub fn not_before(&self) -> Option<Timestamp> {
        self.not_before
    }

    /// Timed out when not started by this.
    pub fn start_by(&self) -> Option<Timestamp> {
        self.start_by
    }

    /// Labels to find it by.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The secrets it wants, by name: the spec has no values.
    pub fn secrets(&self) -> &[SecretRef] {
        &self.secrets
    }

    /// What is put into its workspace before it starts.
    pub fn inputs(&self) -> &[ArtifactInput] {
        &self.inputs
    }

    /// What of its workspace is kept.
    pub fn outputs(&self) -> &[ArtifactOutput] {
        &self.outputs
    }

    /// Whether its workspace stays where it is after its end, for people to look into.
    pub fn keep_workspace(&self) -> bool {
        self.keep_workspace
    }
}

/// A limit on jobs that share a key, over all workers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Concurrency {
    /// The key they share.
    pub key: String,
    /// How many may be assigned or running at once; at least 1.
    pub limit: u32,
}

/// The order of the queue: the higher first. Any `i32`; four have names.
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

/// A text that is not a priority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a priority: write low, normal, high, critical or a whole number of 32 bits")]
pub struct ParsePriorityError(String);

/// Bytes as a text whose characters have their values: what is text stays readable in JSON, and short.
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
