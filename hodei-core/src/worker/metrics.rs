//! The metrics in a heartbeat.

use serde::{Deserialize, Serialize};

/// The measurements of an agent about its machine and itself, sent with each heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct WorkerMetrics {
    /// Busy share of all cores since the last heartbeat, in `0.0..=1.0`.
    pub cpu: f64,
    /// The one-minute load average.
    pub load: f64,
    /// Memory in use, in bytes.
    pub memory_used: u64,
    /// All memory, in bytes.
    pub memory_total: u64,
    /// Used bytes of the disk of the workspace.
    pub disk_used: u64,
    /// Size of that disk, in bytes.
    pub disk_total: u64,
    /// Number of slots with a job.
    pub slots_used: u32,
    /// Bytes of output and results in the spool, which are not acknowledged yet.
    pub spool_bytes: u64,
    /// Log chunks dropped for lack of room in the spool, since the start of the agent.
    pub dropped_logs: u64,
}
