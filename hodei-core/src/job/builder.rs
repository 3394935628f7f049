//! The builder of job specs, and the limits that it checks.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::limits;
use super::spec::{Concurrency, JobSpec, Priority};
use super::{Command, Constraint, JobResources, Labels, RetryPolicy};
use crate::artifact::{ArtifactInput, ArtifactOutput};
use crate::secret::{SecretInjection, SecretRef};
use crate::time::Timestamp;

/// Builds a [`JobSpec`]; [`build`](Self::build) checks it.
#[derive(Debug, Clone)]
#[must_use]
pub struct JobSpecBuilder {
    spec: JobSpec,
    interpreter: Option<String>,
    extension: Option<String>,
}

impl JobSpec {
    /// Starts a spec for a program and its arguments, without a shell.
    pub fn command<I: IntoIterator<Item = S>, S: Into<String>>(argv: I) -> JobSpecBuilder {
        JobSpecBuilder::new(Command::Argv(argv.into_iter().map(Into::into).collect()))
    }

    /// Starts a spec for one line of `/bin/sh`.
    pub fn shell(line: impl Into<String>) -> JobSpecBuilder {
        JobSpecBuilder::new(Command::Shell(line.into()))
    }

    /// Starts a spec for a script. Its interpreter comes from its `#!` line, or is `/bin/sh`, unless
    /// [`interpreter`](JobSpecBuilder::interpreter) names one.
    pub fn script(source: impl Into<String>) -> JobSpecBuilder {
        JobSpecBuilder::new(Command::Script { interpreter: None, source: source.into(), extension: None })
    }
}

impl JobSpecBuilder {
    /// Makes a builder with the defaults: no timeout, five seconds of kill grace, one slot, no retry after the user's
    /// causes.
    pub fn new(command: Command) -> Self {
        let spec = JobSpec {
            name: None,
            command,
            image: None,
            env: BTreeMap::new(),
            working_dir: None,
            stdin: Bytes::new(),
            timeout: None,
            kill_grace: Duration::from_secs(5),
            resources: JobResources::default(),
            constraints: Vec::new(),
            priority: Priority::NORMAL,
            retry: RetryPolicy::default(),
            at_most_once: false,
            idempotency_key: None,
            concurrency: None,
            not_before: None,
            start_by: None,
            labels: Labels::new(),
            secrets: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            keep_workspace: false,
        };
        Self { spec, interpreter: None, extension: None }
    }

    /// Sets the name for display.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.spec.name = Some(name.into());
        self
    }

    /// Sets the program that runs a [`Command::Script`], with its first arguments.
    pub fn interpreter(mut self, interpreter: impl Into<String>) -> Self {
        self.interpreter = Some(interpreter.into());
        self
    }

    /// Sets the extension of the file of a [`Command::Script`], such as `py`; by default the usual one of its
    /// interpreter.
    pub fn script_extension(mut self, extension: impl Into<String>) -> Self {
        self.extension = Some(extension.into());
        self
    }

    /// Sets the container image to run in.
    pub fn image(mut self, image: impl Into<String>) -> Self {
        self.spec.image = Some(image.into());
        self
    }

    /// Adds a variable to the environment of the job.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.env.insert(key.into(), value.into());
        self
    }

    /// Sets the working directory. A relative path is inside the workspace, and created when missing. Blank or `.`
    /// unsets it.
    pub fn working_dir(mut self, dir: impl Into<String>) -> Self {
        let dir = dir.into();
        self.spec.working_dir = (!matches!(dir.trim(), "" | ".")).then_some(dir);
        self
    }

    /// Sets the bytes of standard input.
    pub fn stdin(mut self, bytes: impl Into<Bytes>) -> Self {
        self.spec.stdin = bytes.into();
        self
    }

    /// Sets the maximum run time, counted from the start of the process.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.spec.timeout = Some(timeout);
        self
    }

    /// Sets the time between TERM and KILL.
    pub fn kill_grace(mut self, grace: Duration) -> Self {
        self.spec.kill_grace = grace;
        self
    }

    /// Sets the resources that the job needs beside one slot.
    pub fn resources(mut self, resources: JobResources) -> Self {
        self.spec.resources = resources;
        self
    }

    /// Adds a constraint on the labels of the worker.
    pub fn constraint(mut self, constraint: Constraint) -> Self {
        self.spec.constraints.push(constraint);
        self
    }

    /// Sets the priority in the queue.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.spec.priority = priority;
        self
    }

    /// Sets the retry policy.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.spec.retry = retry;
        self
    }

    /// Sets the maximum number of retries after the user's causes.
    pub fn retries(mut self, max: u32) -> Self {
        self.spec.retry.max = max;
        self
    }

    /// Never starts the command twice; a job whose end is unknown then fails with cause `lost`.
    pub fn at_most_once(mut self) -> Self {
        self.spec.at_most_once = true;
        self
    }

    /// Sets the idempotency key: a second submit with this key and the same spec finds the first job.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.spec.idempotency_key = Some(key.into());
        self
    }

    /// Limits the jobs with this key that are assigned or running at once.
    pub fn concurrency(mut self, key: impl Into<String>, limit: u32) -> Self {
        self.spec.concurrency = Some(Concurrency { key: key.into(), limit });
        self
    }

    /// Sets the time before which the job does not start.
    pub fn not_before(mut self, at: Timestamp) -> Self {
        self.spec.not_before = Some(at);
        self
    }

    /// Sets the time by which the job must start; otherwise it is timed out.
    pub fn start_by(mut self, at: Timestamp) -> Self {
        self.spec.start_by = Some(at);
        self
    }

    /// Adds a label, for searches.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.labels.insert(key.into(), value.into());
        self
    }

    /// Adds a secret of the tenant, which the job gets as a file or on standard input.
    pub fn secret(mut self, secret: SecretRef) -> Self {
        self.spec.secrets.push(secret);
        self
    }

    /// Adds an artifact of another job to put into the workspace before the start.
    pub fn input(mut self, input: ArtifactInput) -> Self {
        self.spec.inputs.push(input);
        self
    }

    /// Adds a file of the workspace to keep, or a directory whose files are kept.
    pub fn output(mut self, output: ArtifactOutput) -> Self {
        self.spec.outputs.push(output);
        self
    }

    /// Leaves the workspace in place after the end of the job. Hodei does not remove it then.
    pub fn keep_workspace(mut self) -> Self {
        self.spec.keep_workspace = true;
        self
    }

    /// Checks and returns the spec.
    ///
    /// # Errors
    /// [`SpecError`] names the first field that breaks a limit, and the limit.
    pub fn build(self) -> Result<JobSpec, SpecError> {
        let mut spec = self.spec;
        match (&mut spec.command, self.interpreter) {
            (Command::Script { interpreter, .. }, given @ Some(_)) => *interpreter = given,
            (_, Some(_)) => return refuse("interpreter", "may be set only for a script: leave it out"),
            (_, None) => {}
        }
        match (&mut spec.command, self.extension) {
            (Command::Script { extension, .. }, given @ Some(_)) => *extension = given,
            (_, Some(_)) => return refuse("extension", "may be set only for a script: leave it out"),
            (_, None) => {}
        }
        check_command(&spec.command)?;
        check_texts(&spec)?;
        check_size(&spec)?;
        check_times(&spec)?;
        check_retry(&spec)?;
        check_secrets(&spec)?;
        check_artifacts(&spec)?;
        if let Some(Concurrency { limit: 0, .. }) = spec.concurrency {
            return refuse("concurrency.limit", "must be at least 1");
        }
        let mut seen = BTreeSet::new();
        spec.constraints.retain(|constraint| seen.insert(constraint.clone()));
        Ok(spec)
    }
}

fn check_command(command: &Command) -> Result<(), SpecError> {
    let blank = |text: &str| text.trim().is_empty();
    match command {
        Command::Argv(argv) if argv.first().is_none_or(|program| blank(program)) => {
            refuse("command", "is empty: name a program, such as [\"echo\", \"hello\"]")
        }
        Command::Shell(line) if blank(line) => refuse("shell", "is empty: write a line for /bin/sh"),
        Command::Script { source, .. } if blank(source) => refuse("script", "is empty: write a script"),
        Command::Script { interpreter: Some(program), .. } if blank(program) => {
            refuse("interpreter", "is empty: name a program or leave it out")
        }
        Command::Script { extension: Some(extension), .. } if !Command::is_extension(extension) => {
            refuse("extension", "is not 1 to 16 letters and digits, such as py")
        }
        _ => Ok(()),
    }
}

fn check_texts(spec: &JobSpec) -> Result<(), SpecError> {
    const HAS_NUL: &str = "has a NUL byte, which no program can be given: remove it";
    if spec.command.texts().any(|text| text.contains('\0')) && !matches!(spec.command, Command::Script { .. })
    {
        return refuse("command", HAS_NUL);
    }
    if spec.working_dir.as_ref().is_some_and(|dir| dir.contains('\0')) {
        return refuse("working_dir", HAS_NUL);
    }
    for (key, value) in &spec.env {
        if key.is_empty() || key.contains(['=', '\0']) || key.len() > limits::KEY_BYTES {
            return refuse("env", "has a name that is not valid: use 1 to 256 bytes, without `=` and NUL");
        }
        if key.starts_with("HODEI_") {
            return refuse(
                "env",
                "has a name that begins with HODEI_, which is reserved: choose another name",
            );
        }
        if value.contains('\0') {
            return refuse("env", HAS_NUL);
        }
    }
    let named = [
        ("name", spec.name.as_deref()),
        ("idempotency_key", spec.idempotency_key.as_deref()),
        ("concurrency.key", spec.concurrency.as_ref().map(|concurrency| concurrency.key.as_str())),
        ("image", spec.image.as_deref()),
    ];
    for (field, text) in named {
        if text.is_some_and(|text| text.trim().is_empty() || text.len() > limits::KEY_BYTES) {
            return refuse(field, "must have 1 to 256 bytes that are not all blank");
        }
        if text.is_some_and(|text| text.contains('\0')) {
            return refuse(field, "has a NUL byte: remove it");
        }
    }
    if spec.labels.keys().any(|key| key.is_empty() || key.len() > limits::KEY_BYTES) {
        return refuse("labels", "has a name that is not valid: use 1 to 256 bytes");
    }
    if spec.labels.iter().any(|(key, value)| key.contains('\0') || value.contains('\0')) {
        return refuse("labels", "has a NUL byte: remove it");
    }
    Ok(())
}

fn check_size(spec: &JobSpec) -> Result<(), SpecError> {
    limit("spec", "bytes", spec.size() - spec.stdin.len(), limits::SPEC_BYTES)?;
    limit("stdin", "bytes", spec.stdin.len(), limits::STDIN_BYTES)?;
    limit("labels", "entries", spec.labels.len(), limits::LABELS)
}

fn check_times(spec: &JobSpec) -> Result<(), SpecError> {
    if spec.timeout.is_some_and(|timeout| !(limits::TIMEOUT_MIN..=limits::TIMEOUT_MAX).contains(&timeout)) {
        return refuse("timeout", "must be between 1 ms and 30 days");
    }
    if spec.kill_grace > limits::TIMEOUT_MAX {
        return refuse("kill_grace", "must be at most 30 days");
    }
    match (spec.not_before, spec.start_by) {
        (Some(from), Some(by)) if by < from => {
            refuse("start_by", "is earlier than not_before: set a later time")
        }
        _ => Ok(()),
    }
}

fn check_retry(spec: &JobSpec) -> Result<(), SpecError> {
    if spec.at_most_once && spec.retry.max > 0 {
        return refuse("retry.max", "must be 0 with at_most_once: a retry would start the command twice");
    }
    let most = spec.retry.max.max(spec.retry.max_infrastructure) as usize;
    limit("retry.max", "retries", most, limits::RETRIES as usize)?;
    if spec.retry.on.iter().any(|cause| !cause.is_users()) {
        return refuse("retry.on", "may name only the job's own causes; the platform's are always retried");
    }
    Ok(())
}

fn check_secrets(spec: &JobSpec) -> Result<(), SpecError> {
    limit("secrets", "entries", spec.secrets.len(), limits::SECRETS)?;
    let mut names = BTreeSet::new();
    if !spec.secrets.iter().all(|secret| names.insert(&secret.name)) {
        return refuse("secrets", "names a secret twice");
    }
    let by_stdin = spec.secrets.iter().any(|secret| secret.inject == SecretInjection::Stdin);
    if by_stdin && !spec.stdin.is_empty() {
        return refuse(
            "secrets",
            "has a secret for standard input, which `stdin` already provides: use one of the two",
        );
    }
    Ok(())
}

fn check_artifacts(spec: &JobSpec) -> Result<(), SpecError> {
    limit("inputs", "entries", spec.inputs.len(), limits::ARTIFACTS)?;
    limit("outputs", "entries", spec.outputs.len(), limits::ARTIFACTS)?;
    let mut paths = BTreeSet::new();
    if !spec.inputs.iter().all(|input| paths.insert(&input.path)) {
        return refuse("inputs", "has two artifacts for one path: give each its own path");
    }
    let mut paths = BTreeSet::new();
    if !spec.outputs.iter().all(|output| paths.insert(&output.path)) {
        return refuse("outputs", "names a path twice");
    }
    Ok(())
}

pub(super) fn refuse<T>(field: &'static str, problem: &'static str) -> Result<T, SpecError> {
    Err(SpecError::Invalid { field: field.into(), problem: problem.into() })
}

pub(super) fn limit(
    field: &'static str,
    unit: &'static str,
    got: usize,
    limit: usize,
) -> Result<(), SpecError> {
    if got <= limit {
        return Ok(());
    }
    Err(SpecError::OverLimit { field: field.into(), unit: unit.into(), got, limit })
}

/// A field of a spec that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The value is not valid for the field.
    #[error("{field} {problem}")]
    Invalid {
        /// The field.
        field: Cow<'static, str>,
        /// The problem, and how to fix it.
        problem: Cow<'static, str>,
    },
    /// The value is over its limit.
    #[error("{field} has {got} {unit}; the limit is {limit}")]
    OverLimit {
        /// The field.
        field: Cow<'static, str>,
        /// The counted unit.
        unit: Cow<'static, str>,
        /// The amount that the value has.
        got: usize,
        /// The maximum amount.
        limit: usize,
    },
}

impl SpecError {
    /// Returns the field that is not valid.
    pub fn field(&self) -> &str {
        match self {
            Self::Invalid { field, .. } | Self::OverLimit { field, .. } => field,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check_new;
    use super::*;

    #[test]
    fn an_error_names_the_field_that_is_not_valid() {
        let ok = || JobSpec::command(["true"]);
        let secret = |text: &str| text.parse::<SecretRef>().unwrap();
        let output = |text: &str| text.parse::<ArtifactOutput>().unwrap();
        let job = crate::id::JobId::from_uuid(uuid::Uuid::from_u128(7));
        let input = |text: &str| format!("{job}/{text}").parse::<ArtifactInput>().unwrap();
        let cases = [
            (JobSpec::command(Vec::<String>::new()), "command"),
            (JobSpec::command(["a\0b"]), "command"),
            (JobSpec::shell(" "), "shell"),
            (JobSpec::script(""), "script"),
            (ok().interpreter("sh"), "interpreter"),
            (ok().script_extension("sh"), "extension"),
            (JobSpec::script("x").script_extension("../x"), "extension"),
            (ok().env("A=B", ""), "env"),
            (ok().env("HODEI_JOB_ID", ""), "env"),
            (ok().timeout(Duration::ZERO), "timeout"),
            (ok().timeout(Duration::from_secs(31 * 24 * 3600)), "timeout"),
            (ok().at_most_once().retries(1), "retry.max"),
            (ok().concurrency("k", 0), "concurrency.limit"),
            (ok().secret(secret("a")).secret(secret("a")), "secrets"),
            (ok().secret(secret("a:stdin")).stdin("x"), "secrets"),
            ((0..65).fold(ok(), |spec, n| spec.secret(secret(&n.to_string()))), "secrets"),
            (ok().idempotency_key(""), "idempotency_key"),
            (ok().input(input("a:x")).input(input("b:x")), "inputs"),
            (ok().output(output("a")).output(output("a:always")), "outputs"),
            ((0..257).fold(ok(), |spec, n| spec.output(output(&n.to_string()))), "outputs"),
            ((0..257).fold(ok(), |spec, n| spec.input(input(&n.to_string()))), "inputs"),
            (ok().not_before(Timestamp::from_micros(2)).start_by(Timestamp::from_micros(1)), "start_by"),
            (JobSpec::shell("x".repeat(limits::SPEC_BYTES + 1)), "spec"),
            (ok().stdin(vec![0; limits::STDIN_BYTES + 1]), "stdin"),
            ((0..257).fold(ok(), |spec, n| spec.label(n.to_string(), "")), "labels"),
        ];
        for (builder, field) in cases {
            assert_eq!(builder.build().unwrap_err().field(), field);
        }
    }

    #[test]
    fn only_a_submit_checks_that_the_working_dir_is_absolute_or_inside_the_workspace() {
        let (name, deep) = ("n".repeat(256), "/n".repeat(2048));
        for dir in ["..", "a/../..", "../a", &name, &format!("/{name}"), &deep] {
            let spec = JobSpec::command(["true"]).working_dir(dir).build().unwrap();
            assert_eq!(check_new(&spec).unwrap_err().field(), "working_dir", "{dir}");
        }
        for dir in ["./a", "/etc", "/", "/a/../b", "/ä b"] {
            assert_eq!(
                check_new(&JobSpec::command(["true"]).working_dir(dir).build().unwrap()),
                Ok(()),
                "{dir}"
            );
        }
    }

    #[test]
    fn or_in_sets_the_directory_of_a_spec_without_a_working_dir_or_workspace() {
        let output = || "out".parse::<ArtifactOutput>().unwrap();
        let dir_of =
            |spec: JobSpecBuilder| spec.build().unwrap().or_in("/a").working_dir().map(ToOwned::to_owned);
        let ok = || JobSpec::command(["true"]);
        assert_eq!(dir_of(ok()).as_deref(), Some("/a"));
        assert_eq!(dir_of(ok().working_dir("w")).as_deref(), Some("w"));
        assert_eq!(dir_of(ok().working_dir("/b")).as_deref(), Some("/b"));
        assert_eq!((dir_of(ok().output(output())), dir_of(ok().keep_workspace())), (None, None));
    }

    #[test]
    fn an_error_over_a_limit_names_the_limit() {
        let error = JobSpec::shell("x".repeat(2 << 20)).build().unwrap_err().to_string();
        assert_eq!(error, "spec has 2097152 bytes; the limit is 1048576");
    }

    #[test]
    fn a_dot_unsets_the_working_dir_and_a_repeated_constraint_is_kept_once() {
        let constraint: Constraint = "os EQ linux".parse().unwrap();
        let spec = JobSpec::shell("x").working_dir(".").constraint(constraint.clone()).constraint(constraint);
        let spec = spec.build().unwrap();
        assert_eq!((spec.working_dir(), spec.constraints().len()), (None, 1));
    }
}
