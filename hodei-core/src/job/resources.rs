//! Resources that jobs ask for and workers have, and the usage of an attempt.

use serde::{Deserialize, Serialize};

/// Resources that one job needs beside one slot, or that a worker has. Zero makes no demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobResources {
    /// CPU in thousandths of a core.
    pub cpu_millis: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Disk in bytes.
    pub disk_bytes: u64,
    /// Whole GPUs.
    pub gpus: u32,
    /// Maximum number of processes and threads at once. It is a limit only: workers have no capacity for it.
    pub pids: u32,
}

/// Processor time and memory that the processes of an attempt used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time of all processes together, in microseconds.
    pub cpu_micros: u64,
    /// Peak memory in bytes: of all processes together where the kernel counts that, otherwise of the largest process
    /// where it exceeds the peak of its agent; 0 when it is unknown.
    pub peak_memory_bytes: u64,
}

impl JobResources {
    /// Returns the first field that sets a limit for the kernel to enforce.
    pub fn limit(&self) -> Option<&'static str> {
        [
            ("resources.memory_bytes", self.memory_bytes > 0),
            ("resources.cpu_millis", self.cpu_millis > 0),
            ("resources.pids", self.pids > 0),
        ]
        .into_iter()
        .find_map(|(field, is_asked)| is_asked.then_some(field))
    }

    /// Whether nothing is needed beside one slot.
    pub fn is_one_slot(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the first field in which `self` exceeds `limit`, with the requested amount and the limit.
    pub fn exceeds(&self, limit: &JobResources) -> Option<(&'static str, u64, u64)> {
        [
            ("resources.cpu_millis", u64::from(self.cpu_millis), u64::from(limit.cpu_millis)),
            ("resources.memory_bytes", self.memory_bytes, limit.memory_bytes),
            ("resources.disk_bytes", self.disk_bytes, limit.disk_bytes),
            ("resources.gpus", u64::from(self.gpus), u64::from(limit.gpus)),
        ]
        .into_iter()
        .find(|(_, asked, have)| asked > have)
    }

    /// Returns the saturating sum; `pids` of it is 0.
    pub fn plus(&self, other: &JobResources) -> JobResources {
        JobResources {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
            gpus: self.gpus.saturating_add(other.gpus),
            pids: 0,
        }
    }

    /// Returns the difference, saturating at zero; `pids` of it is 0.
    pub fn minus(&self, other: &JobResources) -> JobResources {
        JobResources {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_sub(other.disk_bytes),
            gpus: self.gpus.saturating_sub(other.gpus),
            pids: 0,
        }
    }
}
