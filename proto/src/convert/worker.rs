//! Workers and their metrics: messages to domain and back. Also `Debug` of messages that hold credentials.

use std::fmt;

use hodei_core::worker::{WorkerCapacity, WorkerMetrics, WorkerStatus, WorkerView};

use super::{ConvertError, parse, resources_from_wire, resources_to_wire, time_from_wire, time_to_wire};
use crate::v1;

impl fmt::Debug for v1::RegisterRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterRequest").field("version", &self.version).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::RegisterResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterResponse").field("worker_id", &self.worker_id).finish_non_exhaustive()
    }
}

/// Returns the wire form of metrics.
pub fn metrics_to_wire(metrics: &WorkerMetrics) -> v1::WorkerMetrics {
    let WorkerMetrics {
        cpu,
        load,
        memory_used,
        memory_total,
        disk_used,
        disk_total,
        slots_used,
        spool_bytes,
        dropped_logs,
    } = *metrics;
    v1::WorkerMetrics {
        cpu,
        load,
        memory_used,
        memory_total,
        disk_used,
        disk_total,
        slots_used,
        spool_bytes,
        dropped_logs,
    }
}

/// Reads the metrics of a message.
pub fn metrics_from_wire(message: &v1::WorkerMetrics) -> WorkerMetrics {
    let v1::WorkerMetrics {
        cpu,
        load,
        memory_used,
        memory_total,
        disk_used,
        disk_total,
        slots_used,
        spool_bytes,
        dropped_logs,
    } = *message;
    WorkerMetrics {
        cpu,
        load,
        memory_used,
        memory_total,
        disk_used,
        disk_total,
        slots_used,
        spool_bytes,
        dropped_logs,
    }
}

const STATUSES: [(WorkerStatus, v1::WorkerStatus); 5] = [
    (WorkerStatus::Registering, v1::WorkerStatus::Registering),
    (WorkerStatus::Ready, v1::WorkerStatus::Ready),
    (WorkerStatus::Busy, v1::WorkerStatus::Busy),
    (WorkerStatus::Draining, v1::WorkerStatus::Draining),
    (WorkerStatus::Terminated, v1::WorkerStatus::Terminated),
];

/// Returns the wire form of a worker.
pub fn worker_to_wire(worker: &WorkerView) -> v1::Worker {
    let status = STATUSES.iter().find(|(status, _)| *status == worker.status);
    v1::Worker {
        id: worker.id.to_string(),
        status: status.map_or(v1::WorkerStatus::Unspecified, |(_, wire)| *wire).into(),
        provider_id: worker.provider.to_string(),
        reference: worker.reference.clone().unwrap_or_default(),
        labels: worker.labels.clone(),
        slots: worker.capacity.slots,
        prefetch: worker.capacity.prefetch,
        resources: Some(resources_to_wire(&worker.capacity.resources)),
        taken: worker.taken,
        ordered_at: Some(time_to_wire(worker.ordered_at)),
        cause: worker.cause.clone().unwrap_or_default(),
        connected: worker.connected,
        metrics: worker.metrics.as_ref().map(metrics_to_wire),
        max_jobs: worker.max_jobs,
    }
}

/// Reads the worker of a message.
///
/// # Errors
/// [`ConvertError`] names the first field that is missing or malformed.
pub fn worker_from_wire(message: v1::Worker) -> Result<WorkerView, ConvertError> {
    let status = STATUSES.iter().find(|(_, wire)| *wire as i32 == message.status);
    let some = |text: String| (!text.is_empty()).then_some(text);
    Ok(WorkerView {
        id: parse("id", &message.id)?,
        status: status.ok_or(ConvertError::Malformed("status"))?.0,
        provider: parse("provider_id", &message.provider_id)?,
        reference: some(message.reference),
        labels: message.labels,
        capacity: WorkerCapacity {
            slots: message.slots,
            prefetch: message.prefetch,
            resources: message.resources.as_ref().map(resources_from_wire).unwrap_or_default(),
        },
        taken: message.taken,
        max_jobs: message.max_jobs,
        ordered_at: message
            .ordered_at
            .as_ref()
            .map(time_from_wire)
            .ok_or(ConvertError::Missing("ordered_at"))?,
        cause: some(message.cause),
        connected: message.connected,
        metrics: message.metrics.as_ref().map(metrics_from_wire),
    })
}

#[cfg(test)]
mod tests {
    use hodei_core::id::{ProviderId, WorkerId};
    use hodei_core::job::{JobResources, Labels};
    use hodei_core::time::Timestamp;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_worker_round_trips_in_every_state() {
        for (status, _) in STATUSES {
            let resources = JobResources { cpu_millis: 1, memory_bytes: 2, disk_bytes: 3, gpus: 4, pids: 0 };
            let view = WorkerView {
                id: WorkerId::from_uuid(Uuid::from_u128(1)),
                status,
                provider: ProviderId::from_uuid(Uuid::from_u128(2)),
                reference: Some("process/1".into()),
                labels: Labels::from([("os".into(), "linux".into())]),
                capacity: WorkerCapacity { slots: 5, prefetch: 6, resources },
                taken: 7,
                max_jobs: Some(10),
                ordered_at: Timestamp::from_micros(8),
                cause: Some("retired".into()),
                connected: true,
                metrics: Some(WorkerMetrics { cpu: 0.5, spool_bytes: 9, ..WorkerMetrics::default() }),
            };
            assert_eq!(worker_from_wire(worker_to_wire(&view)).unwrap(), view);
        }
    }
}
