//! The peak of a child's memory, as far as it can be told from its parent's.
//!
//! `posix_spawn` lends the child its parent's memory until it becomes its program, and the system counts that as the
//! child's: what it says is at least the parent's own peak (`setmax_mm_hiwater_rss` in the kernel's `exec_mmap`).

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes by which the counts of the two may differ: each processor keeps some pages to itself.
const SLACK: u64 = 1 << 20;

/// Bytes; 0 when what the system says of the child may be this process's own peak.
pub(in crate::executor) fn of_child(said: u64) -> u64 {
    static OWN: AtomicU64 = AtomicU64::new(0);
    let is_own = |own: u64| said <= own + SLACK;
    // It only grows, so it is read anew only for those that seem to have passed it.
    if is_own(OWN.load(Ordering::Relaxed)) {
        return 0;
    }
    let Some(own) = own() else { return 0 };
    OWN.fetch_max(own, Ordering::Relaxed);
    if is_own(own) { 0 } else { said }
}

/// See proc_pid_status(5).
fn own() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_our_own_peak_is_not_told_as_a_childs() {
        let own = own().unwrap();
        assert!(own > 1 << 20, "{own}");
        assert_eq!(of_child(own), 0);
        assert_eq!(of_child(own + (1 << 40)), own + (1 << 40));
        assert_eq!(of_child(own), 0);
    }
}
