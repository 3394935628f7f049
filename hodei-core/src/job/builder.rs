use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::spec::{Concurrency, JobSpec, Priority};
use super::{Command, Constraint, JobResources, Labels, RetryPolicy};
use crate::artifact::{ArtifactInput, ArtifactOutput};
use crate::secret::{SecretInjection, SecretRef};
use crate::time::Timestamp;

/// The limits that a spec is held to.
pub mod limits {
    use std::time::Duration;

    /// Bytes of all texts of a spec, without its stdin: 1 MiB.
    pub const SPEC_BYTES: usize = 1 << 20;
    /// Bytes of stdin: 1 MiB.
    pub const STDIN_BYTES: usize = 1 << 20;
    /// Secrets of a job.
    pub const SECRETS: usize = 64;
    /// Bytes of the values of a job's secrets together, known when it is delivered: 4 MiB.
    pub const SECRETS_BYTES: usize = 4 << 20;
    /// Inputs of a job, and outputs that its spec names.
    pub const ARTIFACTS: usize = 256;
    /// Files and links that are kept of an attempt.
    pub const STORED: usize = 10_000;
    /// Bytes of their names together, which are in the result of the job: 1 MiB.
    pub const STORED_NAMES_BYTES: usize = 1 << 20;
    /// Bytes of the extension of a script.
    pub const EXTENSION_BYTES: usize = 16;
    /// Bytes of a working directory that is an absolute path, as the system takes it.
    pub const WORKING_DIR_BYTES: usize = 4095;
    /// Labels of a job.
    pub const LABELS: usize = 256;
    /// The shortest timeout.
    pub const TIMEOUT_MIN: Duration = Duration::from_millis(1);
    /// The longest timeout and kill grace.
    pub const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
    /// Retries of either kind.
    pub const RETRIES: u32 = 1000;
    /// Bytes of one argument, of a line of a shell, or of one NAME=VALUE, without its NUL: MAX_ARG_STRLEN of Linux.
    pub const ARGUMENT_BYTES: usize = (128 << 10) - 1;
    /// Bytes of all arguments and variables, each with its NUL and 8 bytes of address: what execve(2) takes with a stack of
    /// 8 MiB, but for 128 KiB of what the agent adds.
    pub const EXEC_BYTES: usize = (2 << 20) - (128 << 10);
    /// The least limit of memory, in bytes: in less no program starts.
    pub const MEMORY_MIN: u64 = 1 << 20;
    /// The least limit of processor time, in thousandths: a millisecond in each tenth of a second.
    pub const CPU_MILLIS_MIN: u32 = 10;
    /// How far ahead of now the time in the id of a new job may lie; stores forget no job before that time.
    pub const ID_AHEAD: Duration = Duration::from_secs(24 * 3600);
    /// Bytes of a key, label name or variable name.
    pub const KEY_BYTES: usize = 256;
}

/// Makes a [`JobSpec`]; [`build`](Self::build) checks it.
#[derive(Debug, Clone)]
#[must_use]
pub struct JobSpecBuilder {
    spec: JobSpec,
    interpreter: Option<String>,
    extension: Option<String>,
}

impl JobSpecBuilder {
    /// A builder with every default: no timeout, five seconds of grace, one slot, no user retry.
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

    /// Gives it a name for people.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.spec.name = Some(name.into());
        self
    }

    /// Names the program that runs a [`Command::Script`], with its first arguments.
    pub fn interpreter(mut self, interpreter: impl Into<String>) -> Self {
        self.interpreter = Some(interpreter.into());
        self
    }

    /// Has the file of a [`Command::Script`] end with a dot and this, as `py`; by default as its interpreter has it.
    pub fn script_extension(mut self, extension: impl Into<String>) -> Self {
        self.extension = Some(extension.into());
        self
    }

    /// Runs it in a container image.
    pub fn image(mut self, image: impl Into<String>) -> Self {
        self.spec.image = Some(image.into());
        self
    }

    /// Adds a variable to the job's environment.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.env.insert(key.into(), value.into());
        self
    }

    /// Runs it there, in its workspace where that is no absolute path; made when missing. Blank means nowhere in
    /// particular.
    pub fn working_dir(mut self, dir: impl Into<String>) -> Self {
        let dir = dir.into();
        self.spec.working_dir = (!matches!(dir.trim(), "" | ".")).then_some(dir);
        self
    }

    /// Gives it these bytes on standard input.
    pub fn stdin(mut self, bytes: impl Into<Bytes>) -> Self {
        self.spec.stdin = bytes.into();
        self
    }

    /// Stops it after this long, counted from its start.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.spec.timeout = Some(timeout);
        self
    }

    /// Gives it this long between TERM and KILL.
    pub fn kill_grace(mut self, grace: Duration) -> Self {
        self.spec.kill_grace = grace;
        self
    }

    /// Takes this of a worker beside one slot.
    pub fn resources(mut self, resources: JobResources) -> Self {
        self.spec.resources = resources;
        self
    }

    /// Adds a condition on the worker's labels.
    pub fn constraint(mut self, constraint: Constraint) -> Self {
        self.spec.constraints.push(constraint);
        self
    }

    /// Moves it in the queue.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.spec.priority = priority;
        self
    }

    /// Says when a failed attempt is followed by another.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.spec.retry = retry;
        self
    }

    /// Allows this many further attempts after the user's causes.
    pub fn retries(mut self, max: u32) -> Self {
        self.spec.retry.max = max;
        self
    }

    /// Never starts the command twice; an unknown end is then FAILED with cause `lost`.
    pub fn at_most_once(mut self) -> Self {
        self.spec.at_most_once = true;
        self
    }

    /// Makes a second submit with this key find the first job.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.spec.idempotency_key = Some(key.into());
        self
    }

    /// Lets at most `limit` jobs with this key be assigned or running at once.
    pub fn concurrency(mut self, key: impl Into<String>, limit: u32) -> Self {
        self.spec.concurrency = Some(Concurrency { key: key.into(), limit });
        self
    }

    /// Does not start it before this.
    pub fn not_before(mut self, at: Timestamp) -> Self {
        self.spec.not_before = Some(at);
        self
    }

    /// Times it out when it has not started by this.
    pub fn start_by(mut self, at: Timestamp) -> Self {
        self.spec.start_by = Some(at);
        self
    }

    /// Adds a label to find it by.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.labels.insert(key.into(), value.into());
        self
    }

    /// Gives it a secret of its tenant, as a file or on its standard input.
    pub fn secret(mut self, secret: SecretRef) -> Self {
        self.spec.secrets.push(secret);
        self
    }

    /// Puts an artifact of another job into its workspace before it starts.
    pub fn input(mut self, input: ArtifactInput) -> Self {
        self.spec.inputs.push(input);
        self
    }

    /// Keeps a file of its workspace, or all below a directory.
    pub fn output(mut self, output: ArtifactOutput) -> Self {
        self.spec.outputs.push(output);
        self
    }

    /// Leaves its workspace where it is after its end. Nothing of Hodei removes it then.
    pub fn keep_workspace(mut self) -> Self {
        self.spec.keep_workspace = true;
        self
    }

    /// The spec.
    ///
    /// # Errors
    /// [`SpecError`] names the first field that breaks a limit, and the limit.
    pub fn build(self) -> Result<JobSpec, SpecError> {
        let mut spec = self.spec;
        match (&mut spec.command, self.interpreter) {
            (Command::Script { interpreter, .. }, given @ Some(_)) => *interpreter = given,
            (_, Some(_)) => return refuse("interpreter", "is only for a script"),
            (_, None) => {}
        }
        match (&mut spec.command, self.extension) {
            (Command::Script { extension, .. }, given @ Some(_)) => *extension = given,
            (_, Some(_)) => return refuse("extension", "is only for a script"),
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
        Command::Shell(line) if blank(line) => refuse("shell", "is empty"),
        Command::Script { source, .. } if blank(source) => refuse("script", "is empty"),
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
    const NUL: &str = "has a NUL byte, which no program can be given";
    if spec.command.texts().any(|text| text.contains('\0')) && !matches!(spec.command, Command::Script { .. })
    {
        return refuse("command", NUL);
    }
    if spec.working_dir.as_ref().is_some_and(|dir| dir.contains('\0')) {
        return refuse("working_dir", NUL);
    }
    for (key, value) in &spec.env {
        if key.is_empty() || key.contains(['=', '\0']) || key.len() > limits::KEY_BYTES {
            return refuse("env", "has a name that is empty, over 256 bytes, or has `=` or NUL in it");
        }
        if key.starts_with("HODEI_") {
            return refuse("env", "has a name that begins with HODEI_, which is reserved");
        }
        if value.contains('\0') {
            return refuse("env", NUL);
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
            return refuse(field, "is empty or over 256 bytes");
        }
        if text.is_some_and(|text| text.contains('\0')) {
            return refuse(field, "has a NUL byte");
        }
    }
    if spec.labels.keys().any(|key| key.is_empty() || key.len() > limits::KEY_BYTES) {
        return refuse("labels", "has a name that is empty or over 256 bytes");
    }
    if spec.labels.iter().any(|(key, value)| key.contains('\0') || value.contains('\0')) {
        return refuse("labels", "has a NUL byte");
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
        (Some(from), Some(by)) if by < from => refuse("start_by", "is earlier than not_before"),
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
        return refuse("secrets", "names one twice");
    }
    let by_stdin = spec.secrets.iter().any(|secret| secret.inject == SecretInjection::Stdin);
    if by_stdin && !spec.stdin.is_empty() {
        return refuse("secrets", "has one for standard input, which `stdin` has already");
    }
    Ok(())
}

fn check_artifacts(spec: &JobSpec) -> Result<(), SpecError> {
    limit("inputs", "entries", spec.inputs.len(), limits::ARTIFACTS)?;
    limit("outputs", "entries", spec.outputs.len(), limits::ARTIFACTS)?;
    let mut paths = BTreeSet::new();
    if !spec.inputs.iter().all(|input| paths.insert(&input.path)) {
        return refuse("inputs", "has two for one path");
    }
    let mut paths = BTreeSet::new();
    if !spec.outputs.iter().all(|output| paths.insert(&output.path)) {
        return refuse("outputs", "names one path twice");
    }
    Ok(())
}

pub(super) fn refuse<T>(field: &'static str, problem: &'static str) -> Result<T, SpecError> {
    Err(SpecError::Invalid { field, problem })
}

pub(super) fn limit(
    field: &'static str,
    unit: &'static str,
    got: usize,
    limit: usize,
) -> Result<(), SpecError> {
    if got > limit { Err(SpecError::OverLimit { field, unit, got, limit }) } else { Ok(()) }
}

/// A field of a spec that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The value is not one that the field takes.
    #[error("{field} {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
    /// The value is too large.
    #[error("{field} has {got} {unit}; the limit is {limit}")]
    OverLimit {
        /// The field.
        field: &'static str,
        /// What is counted.
        unit: &'static str,
        /// How much it has.
        got: usize,
        /// How much it may have.
        limit: usize,
    },
}

impl SpecError {
    /// The field that is wrong.
    pub fn field(&self) -> &'static str {
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
    fn each_bad_field_is_named() {
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
    fn a_new_spec_runs_inside_its_workspace_or_at_an_absolute_path_and_an_old_one_is_read() {
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
    fn a_spec_that_says_nothing_of_where_it_runs_may_be_given_a_directory() {
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
    fn a_limit_is_in_its_message() {
        let error = JobSpec::shell("x".repeat(2 << 20)).build().unwrap_err().to_string();
        assert_eq!(error, "spec has 2097152 bytes; the limit is 1048576");
    }

    #[test]
    fn a_blank_working_dir_means_none_and_constraints_are_kept_once() {
        let constraint: Constraint = "os EQ linux".parse().unwrap();
        let spec = JobSpec::shell("x").working_dir(".").constraint(constraint.clone()).constraint(constraint);
        let spec = spec.build().unwrap();
        assert_eq!((spec.working_dir(), spec.constraints().len()), (None, 1));
    }
}
