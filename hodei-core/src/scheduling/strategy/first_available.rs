//! The strategy that fills one worker after the other.

use crate::scheduling::{QueuedJob, SchedulingStrategy, WorkerInfo};

/// Gives every worker the same score, so that the first by id is filled before the next.
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
