//! Reads the state of processes from /proc.

/// The state of a process.
#[derive(Debug, Clone, Copy)]
pub(in crate::executor) struct Stat {
    pub(in crate::executor) parent: i32,
    /// Its process group.
    pub(in crate::executor) group: i32,
    pub(in crate::executor) session: i32,
    /// False for a zombie.
    pub(in crate::executor) is_alive: bool,
    /// Whether it runs, or waits for a processor or a disk.
    pub(in crate::executor) is_runnable: bool,
    /// Start time in ticks since the boot of the machine.
    pub(in crate::executor) started: u64,
}

/// Returns every process of this machine.
pub(in crate::executor) fn all_processes() -> impl Iterator<Item = (i32, Stat)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?)))
}

/// Returns the state of a process, `None` if it is gone: see proc_pid_stat(5).
pub(in crate::executor) fn stat(pid: i32) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain any character, so the other fields follow the last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let (group, session) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let started = fields.nth(15)?.parse().ok()?;
    let (is_alive, is_runnable) = (!matches!(state, "Z" | "X" | "x"), matches!(state, "R" | "D"));
    Some(Stat { parent, group, session, is_alive, is_runnable, started })
}
