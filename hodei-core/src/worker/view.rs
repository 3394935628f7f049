//! A worker as queries return it.

use super::{Worker, WorkerCapacity, WorkerMetrics, WorkerState, WorkerStatus};
use crate::id::{ProviderId, WorkerId};
use crate::job::Labels;
use crate::time::Timestamp;

/// A worker as queries return it: its stored state, and the current state of its agent.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerView {
    /// Its id.
    pub id: WorkerId,
    /// State of the worker.
    pub status: WorkerStatus,
    /// Provider that created it.
    pub provider: ProviderId,
    /// Name of the worker at its provider, once it was created.
    pub reference: Option<String>,
    /// Its labels: as ordered, with those of its agent.
    pub labels: Labels,
    /// Its capacity.
    pub capacity: WorkerCapacity,
    /// Jobs that it was given so far; exact only where [`max_jobs`](Self::max_jobs) is set.
    pub taken: u32,
    /// Maximum number of jobs in its life; `None` means no limit.
    pub max_jobs: Option<u32>,
    /// Time of the order.
    pub ordered_at: Timestamp,
    /// Why it is terminated, when it is.
    pub cause: Option<String>,
    /// Whether its agent is connected.
    pub connected: bool,
    /// Metrics of the last heartbeat of its agent.
    pub metrics: Option<WorkerMetrics>,
}

impl WorkerView {
    /// Makes the view of a worker, with the current state of its agent.
    pub fn new(worker: &Worker, connected: bool, metrics: Option<WorkerMetrics>) -> Self {
        Self {
            id: worker.id(),
            status: worker.status(),
            provider: worker.order().provider,
            reference: worker.reference().map(str::to_owned),
            labels: worker.labels().clone(),
            capacity: *worker.capacity(),
            taken: worker.taken(),
            max_jobs: worker.order().lifetime.max_jobs,
            ordered_at: worker.ordered_at(),
            cause: match worker.state() {
                WorkerState::Terminated { cause, .. } => Some(cause.to_string()),
                _ => None,
            },
            connected,
            metrics,
        }
    }
}
