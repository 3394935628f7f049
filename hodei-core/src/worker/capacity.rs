use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::JobResources;

/// How much a worker takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCapacity {
    /// Jobs at once.
    pub slots: u32,
    /// Jobs that may wait in the worker beyond its slots, at most, so that a freed slot is filled without a round trip.
    /// How many do depends on how long they run: see `WorkerInfo::prefetch`.
    pub prefetch: u32,
    /// What all its jobs share.
    pub resources: JobResources,
}

impl WorkerCapacity {
    /// Some slots, as much prefetch, and no declared resources.
    pub fn slots(slots: u32) -> Self {
        Self { slots, prefetch: slots, resources: JobResources::default() }
    }
}

/// When a worker leaves by itself. The default keeps an idle worker for 60 s, without other limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// After this many jobs; 1 makes a worker for each job.
    pub max_jobs: Option<u32>,
    /// After this long without a job.
    pub idle: Option<Duration>,
    /// After this age; it finishes what it has.
    pub max_age: Option<Duration>,
}

impl Default for Lifetime {
    fn default() -> Self {
        Self { max_jobs: None, idle: Some(Duration::from_secs(60)), max_age: None }
    }
}
