use std::fmt::Debug;

use super::context::WorkerInfo;
use super::queue::QueuedJob;
pub use crate::decision::Score;

/// Scores workers for a job. The highest sum over all strategies wins; among equals the one that comes first
/// by id.
pub trait SchedulingStrategy: Debug + Send + Sync + 'static {
    /// Its name in a score breakdown.
    fn name(&self) -> &'static str;

    /// How well the worker suits the job, in `0.0..=1.0`. Only workers that could run it are asked about.
    /// `active` is how many attempts the worker would have before this one.
    fn score(&self, job: &QueuedJob<'_>, worker: &WorkerInfo, active: u32) -> f64;
}
