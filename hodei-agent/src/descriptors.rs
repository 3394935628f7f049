//! The limit of open files: an agent with many slots needs more than a shell's default.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of descriptors that the agent holds for each running job: three pipes, a handle of its process, a file of its
/// output, one of its spool and two of its control group.
const DESCRIPTORS_PER_JOB: u64 = 8;
/// Number of descriptors for the agent itself and for a start in progress.
const AGENT_DESCRIPTORS: u64 = 128;

/// The result of [`raise_descriptor_limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// The soft limit before it was raised, to be restored in jobs; `None` if it was not raised.
    pub original: Option<u64>,
    /// Number of concurrent jobs that the limit has room for, at most the requested number.
    pub slots: u32,
}

/// Raises the soft limit of open files of this process to the need of `slots` concurrent jobs, within the hard limit.
/// Meant for programs, not libraries: the limit applies to the whole process.
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

/// Returns the soft limit for this number of concurrent jobs.
fn needed(soft: u64, hard: u64, slots: u32) -> u64 {
    (u64::from(slots) * DESCRIPTORS_PER_JOB + AGENT_DESCRIPTORS).max(soft).min(hard)
}

/// Returns the number of slots that fit into a limit. At least one, since one job may still find descriptors.
fn slots_within(limit: u64) -> u32 {
    u32::try_from(limit.saturating_sub(AGENT_DESCRIPTORS) / DESCRIPTORS_PER_JOB).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_grows_with_the_slots_up_to_the_hard_limit() {
        assert_eq!(needed(1024, 20_000, 4), 1024);
        assert_eq!(needed(1024, 20_000, 400), 3328);
        assert_eq!(needed(1024, 2000, 400), 2000);
        assert_eq!((slots_within(3328), slots_within(2000), slots_within(64)), (400, 234, 1));
    }
}
