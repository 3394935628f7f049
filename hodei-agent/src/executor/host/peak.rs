//! The peak memory of a child, as far as it can be distinguished from its parent's.
//!
//! With `posix_spawn` the child shares its parent's memory until its execve, and the system counts that as the child's:
//! the reported peak is at least the parent's own (`setmax_mm_hiwater_rss` in the kernel's `exec_mmap`).

use std::sync::atomic::{AtomicU64, Ordering};

/// Maximum difference between the counts of the two, in bytes: each processor keeps some pages to itself.
const COUNT_SLACK_BYTES: u64 = 1 << 20;

/// Returns the peak memory of a child in bytes, or 0 if `reported`, the figure of the system, may be the peak of this
/// process.
pub(in crate::executor) fn of_child(reported: u64) -> u64 {
    static OWN_PEAK_BYTES: AtomicU64 = AtomicU64::new(0);
    let is_own = |own: u64| reported <= own + COUNT_SLACK_BYTES;
    // The own peak only grows, so it is read again only if the child's exceeds the known one.
    if is_own(OWN_PEAK_BYTES.load(Ordering::Relaxed)) {
        return 0;
    }
    let Some(own) = own() else { return 0 };
    OWN_PEAK_BYTES.fetch_max(own, Ordering::Relaxed);
    if is_own(own) { 0 } else { reported }
}

/// Returns the peak memory of this process in bytes: see proc_pid_status(5).
fn own() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_that_may_be_that_of_this_process_is_not_reported() {
        let own = own().unwrap();
        assert!(own > 1 << 20, "{own}");
        assert_eq!(of_child(own), 0);
        assert_eq!(of_child(own + (1 << 40)), own + (1 << 40));
        assert_eq!(of_child(own), 0);
    }
}
