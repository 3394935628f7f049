//! The limit of open files: an agent of many slots needs more than a shell gives.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that a running job takes in its agent: three pipes, a handle of its process, a file of its output, one of
/// its spool and two of its control group.
const PER_JOB: u64 = 8;
/// Those of the agent itself, and of a start under way.
const OWN: u64 = 128;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// The soft limit that this process began with, when it was raised: its jobs should have that one.
    pub original: Option<u64>,
    /// Jobs at once that there are descriptors for.
    pub slots: u32,
}

/// Raises the soft limit of open files of this process to what so many jobs at once take, as far as the hard limit lets
/// it. For a program: the limit belongs to the whole process.
pub fn raise_descriptor_limit(slots: u32) -> DescriptorLimit {
    let limit = getrlimit(Resource::Nofile);
    let (Some(soft), hard) = (limit.current, limit.maximum.unwrap_or(u64::MAX)) else {
        return DescriptorLimit { original: None, slots };
    };
    let wanted = needed(soft, hard, slots);
    let raised = wanted > soft
        && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).is_ok();
    let now = if raised { wanted } else { soft };
    DescriptorLimit { original: raised.then_some(soft), slots: slots.min(slots_within(now)) }
}

/// The soft limit for so many jobs.
fn needed(soft: u64, hard: u64, slots: u32) -> u64 {
    (u64::from(slots) * PER_JOB + OWN).max(soft).min(hard)
}

/// At least one: it may still find descriptors.
fn slots_within(limit: u64) -> u32 {
    u32::try_from(limit.saturating_sub(OWN) / PER_JOB).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_grows_with_the_slots_up_to_the_hard_one() {
        assert_eq!(needed(1024, 20_000, 4), 1024);
        assert_eq!(needed(1024, 20_000, 400), 3328);
        assert_eq!(needed(1024, 2000, 400), 2000);
        assert_eq!((slots_within(3328), slots_within(2000), slots_within(64)), (400, 234, 1));
    }
}
