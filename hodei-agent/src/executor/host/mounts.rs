//! What is mounted in the directories of a job: it may be anybody's, and is not removed with them.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};

/// Mounts at one place, one over the other.
const MAX_STACKED: u32 = 1000;

/// Takes off whatever is mounted at a name in a directory, with all that is mounted below it.
///
/// # Errors
/// When something stays: it is to be left alone then.
pub(in crate::executor) fn take_off(at: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let stays = |error: Errno| io::Error::other(format!("it is mounted and cannot be taken off: {error}"));
    for taken in 0..MAX_STACKED {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mounted = openat(at, name, flags, Mode::empty())?;
        // However long the path is that leads there.
        let mounted_at = format!("/proc/self/fd/{}", mounted.as_raw_fd());
        // What is taken off a place that others share goes from theirs too.
        match mount_change(&mounted_at, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC) {
            // It is no mount any more.
            Err(Errno::INVAL) if taken > 0 => return Ok(()),
            changed => changed.map_err(stays)?,
        }
        unmount(&mounted_at, UnmountFlags::DETACH).map_err(stays)?;
    }
    Err(io::Error::other(format!("more than {MAX_STACKED} mounts are on it")))
}

/// The number of the mount that an open file is in, see proc_pid_fdinfo(5).
pub(in crate::executor) fn id_of(file: BorrowedFd<'_>) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}
