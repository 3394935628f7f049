use serde::{Deserialize, Serialize};

/// What one job needs of its worker, beside one slot. Zero asks for nothing in particular.
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
    /// Processes and threads at once, a limit alone: nobody has a share of them.
    pub pids: u32,
}

/// What the processes of an attempt used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time in microseconds, of all together.
    pub cpu_micros: u64,
    /// Memory in bytes at most: of all together where the kernel counted that, else of the largest, where that passed the
    /// peak of its agent; 0 when it is not known.
    pub peak_memory_bytes: u64,
}

impl JobResources {
    /// The first field that is a limit, which the kernel can hold a job to.
    pub fn limit(&self) -> Option<&'static str> {
        [
            ("resources.memory_bytes", self.memory_bytes > 0),
            ("resources.cpu_millis", self.cpu_millis > 0),
            ("resources.pids", self.pids > 0),
        ]
        .into_iter()
        .find_map(|(field, is_asked)| is_asked.then_some(field))
    }

    /// True when one slot is all that is asked for.
    pub fn is_one_slot(&self) -> bool {
        *self == Self::default()
    }

    /// The first field in which `self` exceeds `limit`, with what was asked for and what there is.
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

    /// The sum, saturating.
    pub fn plus(&self, other: &JobResources) -> JobResources {
        JobResources {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
            gpus: self.gpus.saturating_add(other.gpus),
            pids: 0,
        }
    }

    /// The difference, down to zero.
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
