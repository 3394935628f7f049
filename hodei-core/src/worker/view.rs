use super::{Worker, WorkerCapacity, WorkerMetrics, WorkerState, WorkerStatus};
use crate::id::{ProviderId, WorkerId};
use crate::job::Labels;
use crate::time::Timestamp;

/// A worker as people and programs look at it: what is stored of it, and what is known of its agent now.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerView {
    /// Its id.
    pub id: WorkerId,
    /// Where it stands.
    pub status: WorkerStatus,
    /// Who created it.
    pub provider: ProviderId,
    /// What its provider calls it, once it was created.
    pub reference: Option<String>,
    /// Its labels: as ordered, with those of its agent.
    pub labels: Labels,
    /// What it holds.
    pub capacity: WorkerCapacity,
    /// Jobs it was given so far; counted only where there are [`max_jobs`](Self::max_jobs).
    pub taken: u32,
    /// Jobs it is given in all; `None` is no limit.
    pub max_jobs: Option<u32>,
    /// When it was ordered.
    pub ordered_at: Timestamp,
    /// Why it is terminated, when it is.
    pub cause: Option<String>,
    /// Whether its agent is connected.
    pub connected: bool,
    /// What its agent said with its last heartbeat.
    pub metrics: Option<WorkerMetrics>,
}

impl WorkerView {
    /// The view of a worker, with what is known of its agent.
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
