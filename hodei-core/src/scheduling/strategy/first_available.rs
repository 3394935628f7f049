use crate::scheduling::{QueuedJob, SchedulingStrategy, WorkerInfo};

/// Every worker is as good as any other: the first by id is taken, and filled before the next.
#[derive(Debug, Clone, Copy, Default)]
pub struct FirstAvailable;

impl SchedulingStrategy for FirstAvailable {
    fn name(&self) -> &'static str {
        "first_available"
    }

    fn score(&self, _: &QueuedJob<'_>, _: &WorkerInfo, _: u32) -> f64 {
        1.0
    }
}
