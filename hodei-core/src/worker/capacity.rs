//! The capacity and the lifetime of workers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::JobResources;

/// The capacity of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCapacity {
    /// Number of jobs that run at once.
    pub slots: u32,
    /// Maximum number of jobs that wait in the worker beyond its slots, so that a freed slot is filled without a round
    /// trip. The actual number depends on how long they run: see `WorkerInfo::prefetch`.
    pub prefetch: u32,
    /// Resources that its jobs share.
    pub resources: JobResources,
}

impl WorkerCapacity {
    /// Makes a capacity of `slots`, the same prefetch, and no declared resources.
    pub fn slots(slots: u32) -> Self {
        Self { slots, prefetch: slots, resources: JobResources::default() }
    }
}

/// When a worker drains by itself. The default keeps an idle worker for 60 s, without other limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// After this many jobs; with 1 each job gets its own worker.
    pub max_jobs: Option<u32>,
    /// After this time without a job.
    pub idle: Option<Duration>,
    /// At this age; it finishes the jobs that it has.
    pub max_age: Option<Duration>,
}

impl Default for Lifetime {
    fn default() -> Self {
        Self { max_jobs: None, idle: Some(Duration::from_secs(60)), max_age: None }
    }
}
