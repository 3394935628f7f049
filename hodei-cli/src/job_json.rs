use hodei_sdk::Job;
use hodei_sdk::event::Envelope;
use serde_json::{Value, json};

/// The stable JSON of a job.
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
        "labels": job.spec().labels(),
        "retry_of": job.retry_of().map(|id| id.to_string()),
        "created_at": job.created_at().to_string(),
        "started_at": job.started_at().map(|at| at.to_string()),
        "finished_at": ending.map(|ending| ending.at.to_string()),
    })
}

/// The stable JSON of an event: what surrounds it, and its own fields beside its type.
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
