//! The JSON form of a worker.

use hodei_sdk::worker::{LimitHold, WorkerView};
use serde_json::{Value, json};

/// Returns the stable JSON of a worker.
pub(super) fn worker_json(worker: &WorkerView) -> Value {
    json!({
        "id": worker.id.to_string(),
        "state": worker.status.as_str(),
        "connected": worker.connected,
        "provider_id": worker.provider.to_string(),
        "reference": worker.reference,
        "labels": worker.labels,
        "limits": LimitHold::of(&worker.labels).map(LimitHold::as_str),
        "slots": worker.capacity.slots,
        "jobs_taken": worker.max_jobs.map(|_| worker.taken),
        "max_jobs": worker.max_jobs,
        "ordered_at": worker.ordered_at.to_string(),
        "cause": worker.cause,
        "metrics": worker.metrics,
    })
}
