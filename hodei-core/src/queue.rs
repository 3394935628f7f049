//! The status of the queue, as the coordinator reports it: how many jobs wait, and for which cause.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::JobId;
use crate::worker::LimitHold;

/// Runnable jobs that wait for the same cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingClass {
    /// The first of them; `None` for a caller of another tenant.
    pub head: Option<JobId>,
    /// Number of jobs.
    pub jobs: usize,
    /// Why they wait.
    pub cause: WaitCause,
}

/// The queue after a round of scheduling.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Number of runnable jobs that wait for a worker.
    pub queued: usize,
    /// Number of jobs that have not ended.
    pub open: usize,
    /// The runnable jobs by placement class, each class with the cause of its wait.
    pub waiting: Vec<WaitingClass>,
    /// How far the feed of all events lags behind the stored events.
    #[serde(default)]
    pub feed_lag: Duration,
    /// Why workers cannot be created, or do not connect, by provider.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// Whether workers enforce the limits of jobs; `None` where no provider reports it.
    #[serde(default)]
    pub limits: Option<LimitHold>,
    /// The fault of the scheduler in that round: it panicked, did not return, or made a decision that breaks a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// The cause for which runnable jobs wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitCause {
    /// Workers that could run them are full, and no more may be ordered.
    Capacity,
    /// Workers are being created.
    Provisioning,
    /// Their concurrency key is at its limit.
    Concurrency,
    /// Every provider that could create a worker for them is unhealthy or full.
    Provider,
}

impl WaitCause {
    /// Returns the cause as a sentence about one job.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capacity => {
                "the workers that could run it are full, or run a job on trial that was lost with its worker before, and no more may be started"
            }
            Self::Provisioning => "workers are being started",
            Self::Concurrency => "its concurrency key is at its limit",
            Self::Provider => "every provider that could start a worker for it is unhealthy or full",
        }
    }
}
