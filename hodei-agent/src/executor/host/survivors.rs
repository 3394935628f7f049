//! Processes of an attempt that survive KILL: they belong to another user, or hang in the kernel.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use hodei_core::port::Clock;
use rustix::process::Pid;

use crate::executor::host::procfs::{Stat, all_processes};

/// The living processes of the process group or session of an attempt, at least one, with their users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::executor) struct Survivors {
    processes: Vec<(i32, Option<u32>)>,
}

/// Maximum number of processes that a message names; it counts the others.
const MAX_NAMED_PROCESSES: usize = 16;
/// Maximum number of checks of a group whose processes are dying.
const MAX_CHECKS: u32 = 100;
/// Interval between these checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

impl Survivors {
    /// Returns the processes that live now; `None` if there are none.
    pub(in crate::executor) fn now(leader: Pid) -> Option<Self> {
        let uid = |pid: i32| std::fs::metadata(format!("/proc/{pid}")).ok().map(|about| about.uid());
        let processes: Vec<_> = of_leader(leader).map(|(pid, _)| (pid, uid(pid))).collect();
        (!processes.is_empty()).then_some(Self { processes })
    }

    /// Waits for killed processes to die, for at most a second. Returns those that still live.
    pub(in crate::executor) async fn of_group(clock: &dyn Clock, leader: Pid) -> Option<Self> {
        for _ in 0..MAX_CHECKS {
            Self::now(leader)?;
            clock.sleep(CHECK_INTERVAL).await;
        }
        Self::now(leader)
    }
}

impl fmt::Display for Survivors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = self.processes.len() == 1;
        let (noun, live) = if one { ("process", "lives") } else { ("processes", "live") };
        write!(f, "{noun} ")?;
        for (index, (pid, uid)) in self.processes.iter().take(MAX_NAMED_PROCESSES).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{pid}")?;
            if let Some(uid) = uid {
                write!(f, " (user {uid})")?;
            }
        }
        let more = self.processes.len().saturating_sub(MAX_NAMED_PROCESSES);
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        write!(f, " of the job could not be killed and {live} on")
    }
}

/// Returns whether a process of the group or session of `leader`, which ended, is runnable or waits for a disk.
pub(in crate::executor) fn is_starved(leader: Pid) -> bool {
    of_leader(leader).any(|(_, stat)| stat.is_runnable)
}

fn of_leader(leader: Pid) -> impl Iterator<Item = (i32, Stat)> {
    let leader = leader.as_raw_nonzero().get();
    all_processes().filter(move |(_, stat)| stat.is_alive && (stat.group == leader || stat.session == leader))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_first_and_counts_the_others() {
        let one = Survivors { processes: vec![(7, Some(0))] };
        assert_eq!(one.to_string(), "process 7 (user 0) of the job could not be killed and lives on");
        let many = Survivors { processes: (1..=18).map(|pid| (pid, None)).collect() };
        assert!(many.to_string().ends_with("15, 16 and 2 more of the job could not be killed and live on"));
    }
}
