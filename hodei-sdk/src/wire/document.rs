//! The JSON form of a job, as people and programs in other languages write it.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use hodei_core::id::JobId;
use hodei_core::job::{
    Backoff, CauseKind, Concurrency, JobResources, JobSpec, JobSpecBuilder, Priority, RetryPolicy, SpecError,
    check_new,
};
use hodei_core::time::{Timestamp, parse_duration};
use hodei_proto::convert::time_from_text;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// A job as a JSON object: a command, a shell line or a script, and the other fields of a [`JobSpec`].
///
/// ```
/// # use hodei_sdk::{JobDocument, JobSpec};
/// let job: JobDocument = r#"{"command": ["make", "all"], "timeout": "5m"}"#.parse()?;
/// assert_eq!(job.spec.name(), "make all");
/// # Ok::<(), hodei_sdk::JobDocumentError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobDocument {
    /// The id, if the object has one: a second submit with it returns the first job.
    pub id: Option<JobId>,
    /// The spec of the job.
    pub spec: JobSpec,
}

/// The reason for which a text is not a valid job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JobDocumentError {
    /// The text is not JSON, or a field is unknown or has a wrong value; the message names it.
    #[error("{0}")]
    Form(String),
    /// The fields contradict each other or exceed a limit.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl FromStr for JobDocument {
    type Err = JobDocumentError;

    fn from_str(text: &str) -> Result<Self, JobDocumentError> {
        let fields: Fields =
            serde_json::from_str(text).map_err(|error| JobDocumentError::Form(plain(&error)))?;
        let id = fields.id;
        let spec = fields.spec().map_err(JobDocumentError::Form)?.build()?;
        check_new(&spec)?;
        Ok(Self { id, spec })
    }
}

/// The fields of the object. Exactly one of `command`, `shell` and `script` is required.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    id: Option<JobId>,
    name: Option<String>,
    command: Option<Vec<String>>,
    shell: Option<String>,
    script: Option<String>,
    interpreter: Option<String>,
    extension: Option<String>,
    image: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    working_dir: Option<String>,
    stdin: Option<String>,
    #[serde(default, deserialize_with = "span")]
    timeout: Option<Duration>,
    #[serde(default, deserialize_with = "span")]
    kill_grace: Option<Duration>,
    resources: Option<JobResources>,
    #[serde(default)]
    constraints: Vec<String>,
    #[serde(default, deserialize_with = "priority")]
    priority: Option<Priority>,
    retry: Option<Retry>,
    #[serde(default)]
    at_most_once: bool,
    idempotency_key: Option<String>,
    concurrency: Option<Concurrency>,
    #[serde(default, deserialize_with = "time")]
    not_before: Option<Timestamp>,
    #[serde(default, deserialize_with = "time")]
    start_by: Option<Timestamp>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    secrets: Vec<String>,
    #[serde(default)]
    inputs: Vec<String>,
    #[serde(default)]
    outputs: Vec<String>,
    #[serde(default)]
    keep_workspace: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Retry {
    max: u32,
    max_infrastructure: Option<u32>,
    backoff: Option<Wait>,
    on: Vec<CauseKind>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    #[serde(default, deserialize_with = "span")]
    initial: Option<Duration>,
    #[serde(default, deserialize_with = "span")]
    max: Option<Duration>,
}

/// Returns the message of an error with its column only: the text has one line.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let (why, _) = text.rsplit_once(" at line 1").unwrap_or((&text, ""));
    format!("{why} (column {})", error.column())
}

impl Fields {
    fn spec(self) -> Result<JobSpecBuilder, String> {
        let mut spec = match (self.command, self.shell, self.script) {
            (Some(argv), None, None) => JobSpec::command(argv),
            (None, Some(line), None) => JobSpec::shell(line),
            (None, None, Some(source)) => JobSpec::script(source),
            (None, None, None) => {
                return Err("it has nothing to run: give it a command, a shell or a script".into());
            }
            _ => return Err("it has more than one of command, shell and script: keep one".into()),
        };
        for constraint in &self.constraints {
            spec = spec.constraint(constraint.parse().map_err(|error| format!("constraints: {error}"))?);
        }
        for (key, value) in self.env {
            spec = spec.env(key, value);
        }
        for (key, value) in self.labels {
            spec = spec.label(key, value);
        }
        for secret in &self.secrets {
            spec = spec.secret(secret.parse().map_err(|error| format!("secrets: {error}"))?);
        }
        for input in &self.inputs {
            spec = spec.input(input.parse().map_err(|error| format!("inputs: {error}"))?);
        }
        for output in &self.outputs {
            spec = spec.output(output.parse().map_err(|error| format!("outputs: {error}"))?);
        }
        if self.keep_workspace {
            spec = spec.keep_workspace();
        }
        spec = with(spec, self.name, JobSpecBuilder::name);
        spec = with(spec, self.interpreter, JobSpecBuilder::interpreter);
        spec = with(spec, self.extension, JobSpecBuilder::script_extension);
        spec = with(spec, self.image, JobSpecBuilder::image);
        spec = with(spec, self.working_dir, JobSpecBuilder::working_dir);
        spec = with(spec, self.stdin.map(String::into_bytes), JobSpecBuilder::stdin);
        spec = with(spec, self.timeout, JobSpecBuilder::timeout);
        spec = with(spec, self.kill_grace, JobSpecBuilder::kill_grace);
        spec = with(spec, self.resources, JobSpecBuilder::resources);
        spec = with(spec, self.priority, JobSpecBuilder::priority);
        spec = with(spec, self.retry.map(Retry::policy), JobSpecBuilder::retry);
        spec = with(spec, self.idempotency_key, JobSpecBuilder::idempotency_key);
        spec = with(spec, self.not_before, JobSpecBuilder::not_before);
        spec = with(spec, self.start_by, JobSpecBuilder::start_by);
        spec = with(spec, self.concurrency, |spec, shared| spec.concurrency(shared.key, shared.limit));
        Ok(if self.at_most_once { spec.at_most_once() } else { spec })
    }
}

fn with<T>(
    spec: JobSpecBuilder,
    value: Option<T>,
    set: impl FnOnce(JobSpecBuilder, T) -> JobSpecBuilder,
) -> JobSpecBuilder {
    match value {
        Some(value) => set(spec, value),
        None => spec,
    }
}

impl Retry {
    fn policy(self) -> RetryPolicy {
        let usual = RetryPolicy::default();
        let wait = self.backoff.map_or_else(Backoff::default, |wait| Backoff {
            initial: wait.initial.unwrap_or(usual.backoff.initial),
            max: wait.max.unwrap_or(usual.backoff.max),
        });
        let max_infrastructure = self.max_infrastructure.unwrap_or(usual.max_infrastructure);
        RetryPolicy { max: self.max, max_infrastructure, backoff: wait, on: self.on }
    }
}

fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse_duration(&text).map_err(D::Error::custom)).transpose()
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let malformed =
        || D::Error::custom(format!("`{text}` is not a valid time: write it as in 2030-01-31T12:00:00Z"));
    time_from_text(&text).map(Some).ok_or_else(malformed)
}

fn priority<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Priority>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a priority is a whole number, or low, normal, high or critical")]
    enum Either {
        Number(i32),
        Name(String),
    }
    match Option::<Either>::deserialize(deserializer)? {
        Some(Either::Number(number)) => Ok(Some(Priority(number))),
        Some(Either::Name(name)) => name.parse().map(Some).map_err(D::Error::custom),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Option<JobId>, JobSpec), String> {
        let document: JobDocument = text.parse().map_err(|error: JobDocumentError| error.to_string())?;
        Ok((document.id, document.spec))
    }

    #[test]
    fn a_command_is_enough() {
        let (id, spec) = parse(r#"{"command": ["true"]}"#).unwrap();
        assert_eq!((id, spec), (None, JobSpec::command(["true"]).build().unwrap()));
    }

    #[test]
    fn every_field_of_a_spec_can_be_set() {
        let line = r#"{"id": "0197f3c6-7d2b-7000-8000-000000000001", "name": "n", "script": "exit",
            "interpreter": "sh", "extension": "sh", "image": "i", "env": {"A": "b"}, "working_dir": "w", "stdin": "in",
            "timeout": "1.5s", "kill_grace": "2s", "resources": {"cpu_millis": 50}, "constraints": ["os EQ linux"],
            "priority": "high", "retry": {"max": 2, "max_infrastructure": 4, "on": ["exit"],
            "backoff": {"initial": "1s", "max": "9s"}}, "idempotency_key": "k",
            "concurrency": {"key": "c", "limit": 3}, "not_before": "2030-01-01T00:00:00Z",
            "start_by": "2030-01-01T01:00:00Z", "labels": {"l": "m"}, "secrets": ["db"],
            "inputs": ["0197f3c6-7d2b-7000-8000-000000000001/a:b/c"], "outputs": ["out:always"],
            "keep_workspace": true}"#;
        let (id, spec) = parse(&line.replace('\n', " ")).unwrap();
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let expected = JobSpec::script("exit")
            .interpreter("sh")
            .script_extension("sh")
            .name("n")
            .image("i")
            .env("A", "b")
            .working_dir("w")
            .stdin("in")
            .timeout(Duration::from_millis(1500))
            .kill_grace(Duration::from_secs(2))
            .resources(JobResources { cpu_millis: 50, ..JobResources::default() })
            .constraint("os EQ linux".parse().unwrap())
            .priority(Priority::HIGH)
            .retry(RetryPolicy {
                max: 2,
                max_infrastructure: 4,
                backoff: Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(9) },
                on: vec![CauseKind::Exit],
            })
            .idempotency_key("k")
            .concurrency("c", 3)
            .not_before(at(1_893_456_000))
            .start_by(at(1_893_459_600))
            .label("l", "m")
            .secret("db".parse().unwrap())
            .input("0197f3c6-7d2b-7000-8000-000000000001/a:b/c".parse().unwrap())
            .output("out:always".parse().unwrap())
            .keep_workspace()
            .build()
            .unwrap();
        assert_eq!(spec, expected);
        assert_eq!(id.unwrap().to_string(), "0197f3c6-7d2b-7000-8000-000000000001");
        let (_, spec) = parse(r#"{"shell": "true", "at_most_once": true, "priority": -3}"#).unwrap();
        assert_eq!(spec, JobSpec::shell("true").at_most_once().priority(Priority(-3)).build().unwrap());
    }

    #[test]
    fn an_error_names_the_field_and_the_problem() {
        let cases = [
            ("{", "EOF while parsing an object (column 1)"),
            (r#"{"comand": ["true"]}"#, "unknown field `comand`"),
            ("{}", "it has nothing to run"),
            (r#"{"command": ["a"], "shell": "b"}"#, "more than one"),
            (r#"{"command": []}"#, "command"),
            (r#"{"command": ["a"], "timeout": "5"}"#, "`5` is not a duration"),
            (r#"{"command": ["a"], "priority": true}"#, "a priority is a whole number"),
            (r#"{"command": ["a"], "not_before": "soon"}"#, "`soon` is not a valid time"),
            (r#"{"command": ["a"], "constraints": ["x"]}"#, "constraints"),
            (r#"{"command": ["a"], "inputs": ["x"]}"#, "inputs"),
            (r#"{"command": ["a"], "outputs": ["../x"]}"#, "outputs"),
        ];
        for (line, why) in cases {
            let said = parse(line).unwrap_err();
            assert!(said.contains(why), "{line}: {said}");
        }
    }
}
