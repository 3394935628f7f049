//! Processes of an attempt that KILL did not end: they belong to another user, or hang in the kernel.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use hodei_core::port::Clock;
use rustix::process::Pid;

use crate::executor::host::procfs::{Stat, stats};

/// Living processes of the group or the session of an attempt, with their users; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::executor) struct Survivors {
    processes: Vec<(i32, Option<u32>)>,
}

/// Processes that a message names; it counts the others.
const NAMED: usize = 16;
/// Looks at a group whose processes are dying.
const LOOKS: u32 = 100;
/// Between two of them.
const POLL: Duration = Duration::from_millis(10);

impl Survivors {
    /// Those that live now; `None` when none does.
    pub(in crate::executor) fn now(leader: Pid) -> Option<Self> {
        let uid = |pid: i32| std::fs::metadata(format!("/proc/{pid}")).ok().map(|about| about.uid());
        let processes: Vec<_> = of_leader(leader).map(|(pid, _)| (pid, uid(pid))).collect();
        (!processes.is_empty()).then_some(Self { processes })
    }

    /// Those that live on, at most a second after they were killed.
    pub(in crate::executor) async fn of_group(clock: &dyn Clock, leader: Pid) -> Option<Self> {
        for _ in 0..LOOKS {
            Self::now(leader)?;
            clock.sleep(POLL).await;
        }
        Self::now(leader)
    }
}

impl fmt::Display for Survivors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = self.processes.len() == 1;
        let (noun, live) = if one { ("process", "lives") } else { ("processes", "live") };
        write!(f, "{noun} ")?;
        for (index, (pid, uid)) in self.processes.iter().take(NAMED).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{pid}")?;
            if let Some(uid) = uid {
                write!(f, " (user {uid})")?;
            }
        }
        let more = self.processes.len().saturating_sub(NAMED);
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        write!(f, " of the job could not be killed and {live} on")
    }
}

/// Whether one of the group or session of a process that ended wants a processor, or waits for a disk.
pub(in crate::executor) fn is_starved(leader: Pid) -> bool {
    of_leader(leader).any(|(_, stat)| stat.is_runnable)
}

fn of_leader(leader: Pid) -> impl Iterator<Item = (i32, Stat)> {
    let leader = leader.as_raw_nonzero().get();
    stats().filter(move |(_, stat)| stat.is_alive && (stat.group == leader || stat.session == leader))
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
