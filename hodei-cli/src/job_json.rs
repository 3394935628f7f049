//! The stable JSON of jobs, their specs, their events and their output.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use hodei_sdk::event::Envelope;
use hodei_sdk::job::{Backoff, Command, JobResources, JobState, RetryPolicy};
use hodei_sdk::port::{LogBody, LogStream};
use hodei_sdk::{Artifact, Job, JobSpec, LogItem};
use serde_json::{Value, json};

/// Returns the stable JSON of a job.
pub(crate) fn job_json(job: &Job) -> Value {
    let ending = job.ending();
    let run = ending.and_then(|ending| ending.run.as_ref());
    let message = crate::exit::message(job);
    json!({
        "id": job.id().to_string(),
        "name": job.spec().name(),
        "state": job.status().as_str(),
        "attempt": job.attempt(),
        "exit_code": run.and_then(|run| run.exit_code),
        "cause": job.cause().map(hodei_sdk::CauseKind::as_str),
        "message": message,
        "worker_id": job.worker().map(|worker| worker.to_string()),
        "cancel_requested": is_asked_to_stop(job),
        "labels": job.spec().labels(),
        "retry_of": job.retry_of().map(|id| id.to_string()),
        "created_at": job.created_at().to_string(),
        "started_at": job.started_at().map(|at| at.to_string()),
        "usage": run.and_then(|run| run.usage).map(|usage| json!({
            "cpu_seconds": usage.cpu_micros as f64 / 1e6,
            "peak_memory_bytes": (usage.peak_memory_bytes > 0).then_some(usage.peak_memory_bytes),
        })),
        "artifacts": job.artifacts().iter().map(artifact_json).collect::<Vec<_>>(),
        "finished_at": ending.map(|ending| ending.at.to_string()),
    })
}

/// Returns the stable JSON of an artifact.
pub(crate) fn artifact_json(artifact: &Artifact) -> Value {
    let Artifact { name, bytes, sha256, mode, is_link } = artifact;
    let mode = mode.map(|mode| format!("{mode:04o}"));
    let sha256 = sha256.to_string();
    json!({ "name": name.as_str(), "bytes": bytes, "sha256": sha256, "mode": mode, "is_link": is_link })
}

/// Whether a running job was asked to stop.
pub(crate) fn is_asked_to_stop(job: &Job) -> bool {
    match job.state() {
        JobState::Assigned(assignment) | JobState::Running { assignment, .. } => assignment.cancel_requested,
        _ => false,
    }
}

/// Returns a spec as `hodei job submit --from` reads it, without the fields that have no value. Standard input that is
/// not UTF-8 cannot be written there; `stdin_bytes` has its length instead.
pub(crate) fn spec_json(spec: &JobSpec) -> Value {
    let (program, interpreter, extension) = match spec.what() {
        Command::Argv(argv) => (("command", json!(argv)), None, None),
        Command::Shell(line) => (("shell", json!(line)), None, None),
        Command::Script { interpreter, source, extension } => {
            (("script", json!(source)), interpreter.as_deref(), extension.as_deref())
        }
    };
    let resources = Some(spec.resources()).filter(|resources| **resources != JobResources::default());
    let constraints: Vec<_> = spec.constraints().iter().map(ToString::to_string).collect();
    let stdin = Some(spec.stdin()).filter(|stdin| !stdin.is_empty());
    let fields = [
        program,
        ("interpreter", json!(interpreter)),
        ("extension", json!(extension)),
        ("name", json!(spec.given_name())),
        ("image", json!(spec.image())),
        ("env", json!(spec.env())),
        ("working_dir", json!(spec.working_dir())),
        ("stdin", json!(stdin.and_then(|bytes| str::from_utf8(bytes).ok()))),
        ("stdin_bytes", json!(stdin.and_then(|bytes| str::from_utf8(bytes).is_err().then_some(bytes.len())))),
        ("timeout", json!(spec.timeout().map(span))),
        ("kill_grace", json!(span(spec.kill_grace()))),
        ("resources", json!(resources)),
        ("constraints", json!(constraints)),
        ("priority", json!(spec.priority())),
        ("retry", retry_json(spec.retry())),
        ("at_most_once", json!(spec.at_most_once().then_some(true))),
        ("idempotency_key", json!(spec.idempotency_key())),
        ("concurrency", json!(spec.concurrency())),
        ("not_before", json!(spec.not_before().map(|at| at.to_string()))),
        ("start_by", json!(spec.start_by().map(|at| at.to_string()))),
        ("labels", json!(spec.labels())),
        ("secrets", json!(spec.secrets().iter().map(ToString::to_string).collect::<Vec<_>>())),
        ("inputs", json!(spec.inputs().iter().map(ToString::to_string).collect::<Vec<_>>())),
        ("outputs", json!(spec.outputs().iter().map(ToString::to_string).collect::<Vec<_>>())),
        ("keep_workspace", json!(spec.keep_workspace().then_some(true))),
    ];
    let has_value = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    fields
        .into_iter()
        .filter(|(_, value)| has_value(value))
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn retry_json(retry: &RetryPolicy) -> Value {
    let RetryPolicy { max, max_infrastructure, backoff: Backoff { initial, max: longest }, on } = retry;
    json!({
        "max": max,
        "max_infrastructure": max_infrastructure,
        "backoff": { "initial": span(*initial), "max": span(*longest) },
        "on": on,
    })
}

/// Formats a duration in seconds, exactly.
fn span(duration: Duration) -> String {
    let text = format!("{}.{:09}", duration.as_secs(), duration.subsec_nanos());
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Returns the stable JSON of an event with its envelope.
pub(crate) fn event_json(envelope: &Envelope) -> Value {
    json!({
        "id": envelope.id.to_string(),
        "sequence": envelope.sequence,
        "version": envelope.version,
        "at": envelope.at.to_string(),
        "actor": envelope.actor,
        "event": envelope.event,
    })
}

/// Returns the stable JSON of a piece of output, in base64: its bytes are arbitrary, and may end within a character.
pub(crate) fn log_json(item: &LogItem) -> Value {
    let (attempt, record) = match item {
        LogItem::Record { attempt, record } => (attempt, record),
        LogItem::Torn { attempt } => return json!({ "attempt": attempt, "torn": true }),
    };
    let (sequence, at) = (record.sequence, record.at.to_string());
    match &record.body {
        LogBody::Chunk { stream, bytes } => {
            let stream = if *stream == LogStream::Stdout { "stdout" } else { "stderr" };
            let data = BASE64_STANDARD.encode(bytes);
            json!({ "attempt": attempt, "sequence": sequence, "at": at, "stream": stream, "data": data })
        }
        LogBody::Gap(gap) => {
            let mut missing =
                json!({ "attempt": attempt, "sequence": sequence, "at": at, "missing": gap.to - gap.from });
            if gap.bytes > 0 {
                missing["missing_bytes"] = gap.bytes.into();
            }
            missing
        }
    }
}
