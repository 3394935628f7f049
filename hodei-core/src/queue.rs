//! What waits, and for what: as the coordinator tells it to whoever asks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::JobId;
use crate::worker::LimitHold;

/// Runnable jobs that wait for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingClass {
    /// The first of them; `None` for somebody who may not know of it.
    pub head: Option<JobId>,
    /// How many there are.
    pub jobs: usize,
    /// What they wait for.
    pub cause: WaitCause,
}

/// The queue as a round of scheduling left it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Jobs that are runnable and wait for a worker.
    pub queued: usize,
    /// Jobs that have not ended.
    pub open: usize,
    /// What the runnable ones wait for, by placement class.
    pub waiting: Vec<WaitingClass>,
    /// How far the feed of all events is behind what is stored.
    #[serde(default)]
    pub feed_lag: Duration,
    /// Why workers cannot be created, or do not connect, by provider.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// Whether a job with limits finds workers that hold it to those; `None` where no provider says it.
    #[serde(default)]
    pub limits: Option<LimitHold>,
    /// What the scheduler did wrong in that round: it panicked, did not return, or decided what breaks a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// What runnable jobs wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitCause {
    /// Workers that could run them are full, and no more may be ordered.
    Capacity,
    /// Workers are being created.
    Provisioning,
    /// As many of their concurrency key run as may.
    Concurrency,
    /// Every provider that could create a worker for them is unhealthy or full.
    Provider,
}

impl WaitCause {
    /// What its jobs wait for, in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capacity => {
                "the workers that could run it are full, or take no other while a job is on trial that was lost with its worker, and no more may be started"
            }
            Self::Provisioning => "workers are being started",
            Self::Concurrency => "as many of its concurrency key run as may",
            Self::Provider => "every provider that could start a worker for it is unhealthy or full",
        }
    }
}
