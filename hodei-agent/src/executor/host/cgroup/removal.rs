//! Kills and removes a control group with all groups below it, at any depth.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

/// Maximum number of tries to remove a group, one millisecond apart.
const MAX_REMOVAL_TRIES: u32 = 500;
/// Maximum number of groups visited in one try: processes may create more in the meantime.
const MAX_VISITED_GROUPS: usize = 1_000_000;

/// Kills the processes in a group and below it, and removes it, within half a second. Repeats the kill for processes
/// that fork, and because the kernel takes a moment to reap the dead, longer on a busy machine. Nearly always the first
/// try is the last.
pub(super) fn remove(dir: &Path) {
    for _ in 0..MAX_REMOVAL_TRIES {
        match std::fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                kill_in(dir);
                if let Err(error) = visit(dir, &mut |_| {}, true) {
                    tracing::debug!(%error, dir = %dir.display(), "cannot remove all groups below a control group");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => return,
        }
    }
    tracing::warn!(dir = %dir.display(), "a control group cannot be removed");
}

/// Kills the processes in a group and below it. Returns how many there were.
pub(super) fn kill_in(dir: &Path) -> usize {
    let mut found = 0;
    if let Err(error) = visit(dir, &mut |group| found += kill_directly_in(group), false) {
        tracing::debug!(%error, dir = %dir.display(), "cannot visit all groups below a control group");
    }
    found
}

/// Signals the processes in a group and below it.
pub(super) fn signal_in(dir: &Path, signal: Signal) {
    if let Err(error) = visit(dir, &mut |group| signal_directly_in(group, signal), false) {
        tracing::debug!(%error, dir = %dir.display(), "cannot visit all groups below a control group");
    }
}

/// Calls `work` for a group and each group below it, the lowest first, and removes those below if `removes` is set. It
/// descends by names and ascends by `..`, so that stack, descriptors and paths do not grow with the depth.
fn visit(dir: &Path, work: &mut dyn FnMut(BorrowedFd<'_>), removes: bool) -> io::Result<()> {
    let mut at = match rustix::fs::open(dir, DIRECTORY_FLAGS, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    // For each group from the first down to the current one: its children that are yet to be visited.
    let (mut left, mut visited) = (vec![groups_in(&at)?], 0);
    while let Some(below) = left.last_mut() {
        visited += 1;
        if visited > MAX_VISITED_GROUPS {
            return Err(io::Error::other("there are too many groups"));
        }
        match below.last().map(|name| openat(&at, name, DIRECTORY_FLAGS, Mode::empty())) {
            Some(Ok(next)) => {
                left.push(groups_in(&next)?);
                at = next;
            }
            // The group was removed in the meantime.
            Some(Err(_)) => drop(below.pop()),
            None => {
                work(at.as_fd());
                left.pop();
                let Some(name) = left.last_mut().and_then(Vec::pop) else { return Ok(()) };
                // Safe, since a group is never moved below another.
                at = openat(&at, "..", DIRECTORY_FLAGS, Mode::empty())?;
                if removes {
                    // The next try removes a group that is still busy.
                    let _ = unlinkat(&at, &name, AtFlags::REMOVEDIR);
                }
            }
        }
    }
    Ok(())
}

const DIRECTORY_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn groups_in(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut groups = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let is_other = !matches!(entry.file_name().to_bytes(), b"." | b"..");
        if is_other && entry.file_type() == FileType::Directory {
            groups.push(entry.file_name().to_owned());
        }
    }
    Ok(groups)
}

/// Kills the processes of a group: at once by `cgroup.kill` (version 2, Linux 5.14), else one by one. Returns how many
/// there were.
fn kill_directly_in(group: BorrowedFd<'_>) -> usize {
    let count = pids_in(group).len();
    if count > 0 && write_one(group).is_err() {
        signal_directly_in(group, Signal::KILL);
    }
    count
}

/// Signals the processes of a group by pidfd, so that a reused number cannot hit another process.
fn signal_directly_in(group: BorrowedFd<'_>, signal: Signal) {
    for pid in pids_in(group) {
        let handle =
            Pid::from_raw(pid).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        // Still in the group after the pidfd was opened, so the number was not reused before.
        if let Some(handle) = handle.filter(|_| pids_in(group).contains(&pid)) {
            let _ = rustix::process::pidfd_send_signal(&handle, signal);
        }
    }
}

fn write_one(group: BorrowedFd<'_>) -> io::Result<()> {
    let file = openat(group, "cgroup.kill", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, b"1")?;
    Ok(())
}

/// Returns the processes of a group, except this one: a thread of this process may be in it to start a job.
fn pids_in(group: BorrowedFd<'_>) -> BTreeSet<i32> {
    let numbers = |name: &str| {
        let file = openat(group, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let text = io::read_to_string(std::fs::File::from(file))?;
        io::Result::Ok(text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>())
    };
    let pids = numbers("cgroup.procs").unwrap_or_else(|_| {
        // A threaded group does not list processes.
        numbers("cgroup.threads").unwrap_or_default().into_iter().filter_map(process_of).collect()
    });
    let this = rustix::process::getpid().as_raw_nonzero().get();
    pids.into_iter().filter(|pid| *pid != this).collect()
}

/// Returns the process of a thread: see proc_pid_status(5).
fn process_of(thread: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_any_depth_are_visited_from_the_lowest_and_removed() {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let base = base.unwrap();
        let start = rustix::fs::open(base.path(), DIRECTORY_FLAGS, Mode::empty()).unwrap();
        // Plain directories stand for groups.
        let go = |at: &OwnedFd, name: &str| {
            rustix::fs::mkdirat(at, name, Mode::RWXU).unwrap();
            openat(at, name, DIRECTORY_FLAGS, Mode::empty()).unwrap()
        };
        (0..20_000).fold(start, |at, number| {
            if number % 1000 == 0 {
                go(&at, "beside");
            }
            go(&at, "d")
        });
        let (mut visited, mut last) = (0, 0);
        let work = &mut |group: BorrowedFd<'_>| {
            visited += 1;
            last = rustix::fs::fstat(group).unwrap().st_ino;
        };
        visit(base.path(), work, true).unwrap();
        assert_eq!(visited, 20_021);
        assert_eq!(last, rustix::fs::stat(base.path()).unwrap().st_ino);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
        visit(&base.path().join("gone"), &mut |_| panic!("nothing is there"), true).unwrap();
    }
}
