use serde::{Deserialize, Serialize};

/// What an agent measures of its machine and of itself, with each heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct WorkerMetrics {
    /// The part of all cores that was busy since the last heartbeat, in `0.0..=1.0`.
    pub cpu: f64,
    /// The one-minute load average.
    pub load: f64,
    /// Memory in use, in bytes.
    pub memory_used: u64,
    /// All memory, in bytes.
    pub memory_total: u64,
    /// Used on the disk of the workspace, in bytes.
    pub disk_used: u64,
    /// The size of that disk, in bytes.
    pub disk_total: u64,
    /// Slots that have a job.
    pub slots_used: u32,
    /// Output and results that wait for the platform, in bytes.
    pub spool_bytes: u64,
    /// Pieces of output that found no room in the spool, ever.
    pub dropped_logs: u64,
}
