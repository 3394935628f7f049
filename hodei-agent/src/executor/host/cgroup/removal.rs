//! Kills and removes a control group with all groups that its processes made below it, however deep.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

/// Times that it is tried, a millisecond apart.
const MAX_TRIES: u32 = 500;
/// Groups below one that are looked at in one try: processes may make more meanwhile.
const MAX_GROUPS: usize = 1_000_000;

/// Kills whatever is in a group, or in groups below it, and removes it, in half a second at most: who forks is killed
/// again, and the kernel takes a moment for those that die, longer on a busy machine. Nearly always the first try is the
/// last.
pub(super) fn remove(dir: &Path) {
    for _ in 0..MAX_TRIES {
        match std::fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                kill_in(dir);
                if let Err(error) = visit(dir, &mut |_| {}, true) {
                    tracing::debug!(%error, dir = %dir.display(), "groups below a control group stay");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => return,
        }
    }
    tracing::warn!(dir = %dir.display(), "a control group cannot be removed");
}

/// Kills whatever is in a group and below it; returns how many there were.
pub(super) fn kill_in(dir: &Path) -> usize {
    let mut found = 0;
    if let Err(error) = visit(dir, &mut |group| found += kill_directly_in(group), false) {
        tracing::debug!(%error, dir = %dir.display(), "not all groups below a control group are looked at");
    }
    found
}

/// Signals whatever is in a group and below it.
pub(super) fn signal_in(dir: &Path, signal: Signal) {
    if let Err(error) = visit(dir, &mut |group| signal_directly_in(group, signal), false) {
        tracing::debug!(%error, dir = %dir.display(), "not all groups below a control group are looked at");
    }
}

/// Does something with a group and each below it, the lowest first, and removes those below where asked to. Neither the
/// stack nor the descriptors nor the paths grow with their depth: it goes down by names and up by `..`.
fn visit(dir: &Path, work: &mut dyn FnMut(BorrowedFd<'_>), removes: bool) -> io::Result<()> {
    let mut at = match rustix::fs::open(dir, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    // Of each group from the first down to this one, those below it that are still to be visited.
    let (mut left, mut looked) = (vec![groups_in(&at)?], 0);
    while let Some(below) = left.last_mut() {
        looked += 1;
        if looked > MAX_GROUPS {
            return Err(io::Error::other("they are too many"));
        }
        match below.last().map(|name| openat(&at, name, DIRECTORY, Mode::empty())) {
            Some(Ok(next)) => {
                left.push(groups_in(&next)?);
                at = next;
            }
            // It is gone.
            Some(Err(_)) => drop(below.pop()),
            None => {
                work(at.as_fd());
                left.pop();
                let Some(name) = left.last_mut().and_then(Vec::pop) else { return Ok(()) };
                // A group is never moved below another.
                at = openat(&at, "..", DIRECTORY, Mode::empty())?;
                if removes {
                    // One that is still busy is for the next try.
                    let _ = unlinkat(&at, &name, AtFlags::REMOVEDIR);
                }
            }
        }
    }
    Ok(())
}

const DIRECTORY: OFlags =
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

/// At once by `cgroup.kill` (version 2, Linux 5.14), else one by one. Returns how many there were.
fn kill_directly_in(group: BorrowedFd<'_>) -> usize {
    let count = pids_in(group).len();
    if count > 0 && write_one(group).is_err() {
        signal_directly_in(group, Signal::KILL);
    }
    count
}

/// By handles that cannot come to mean others.
fn signal_directly_in(group: BorrowedFd<'_>, signal: Signal) {
    for pid in pids_in(group) {
        let handle =
            Pid::from_raw(pid).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        // Still in it once we hold it, so the number was not reused in between.
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

/// The processes of a group, but for this one: a thread of it may be there to start another.
fn pids_in(group: BorrowedFd<'_>) -> BTreeSet<i32> {
    let numbers = |name: &str| {
        let file = openat(group, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let text = io::read_to_string(std::fs::File::from(file))?;
        io::Result::Ok(text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>())
    };
    let pids = numbers("cgroup.procs").unwrap_or_else(|_| {
        // A group of threads tells no processes.
        numbers("cgroup.threads").unwrap_or_default().into_iter().filter_map(process_of).collect()
    });
    let this = rustix::process::getpid().as_raw_nonzero().get();
    pids.into_iter().filter(|pid| *pid != this).collect()
}

/// See proc_pid_status(5).
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
        let start = rustix::fs::open(base.path(), DIRECTORY, Mode::empty()).unwrap();
        // Directories stand for groups: what a group has beside them goes with it.
        let go = |at: &OwnedFd, name: &str| {
            rustix::fs::mkdirat(at, name, Mode::RWXU).unwrap();
            openat(at, name, DIRECTORY, Mode::empty()).unwrap()
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
