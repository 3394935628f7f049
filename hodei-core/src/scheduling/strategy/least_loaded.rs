//! The strategy that spreads jobs over workers.

use crate::scheduling::{QueuedJob, SchedulingStrategy, WorkerInfo};

/// Scores a worker by the free share of its slots.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeastLoaded;

impl SchedulingStrategy for LeastLoaded {
    fn name(&self) -> &'static str {
        "least_loaded"
    }

    fn score(&self, _: &QueuedJob<'_>, worker: &WorkerInfo, active: u32) -> f64 {
        let slots = f64::from(worker.worker.capacity().slots.max(1));
        (1.0 - f64::from(active) / slots).max(0.0)
    }
}
