//! The port of strategies that score workers for a job.

use std::fmt::Debug;

use super::context::WorkerInfo;
use super::queue::QueuedJob;
pub use crate::decision::Score;

/// Scores workers for a job. The worker with the highest sum over all strategies wins; among equals the first by id.
pub trait SchedulingStrategy: Debug + Send + Sync + 'static {
    /// Returns the name of the strategy in a [`Score`].
    fn name(&self) -> &'static str;

    /// Returns the score of the worker for the job, in `0.0..=1.0`. It is called only for workers that could run the
    /// job; `active` is the number of attempts that the worker would have beside this one.
    fn score(&self, job: &QueuedJob<'_>, worker: &WorkerInfo, active: u32) -> f64;
}
