//! Unmounts file systems from the directories of a job: their content may belong to others and must not be removed.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};

/// Maximum number of mounts on top of each other at one place.
const MAX_STACKED: u32 = 1000;

/// Unmounts everything that is mounted at a name in a directory, and below it.
///
/// # Errors
/// If a mount stays: leave the place alone then.
pub(in crate::executor) fn unmount_all(at: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let stays =
        |error: Errno| io::Error::other(format!("it is a mount point and cannot be unmounted: {error}"));
    for taken in 0..MAX_STACKED {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mounted = openat(at, name, flags, Mode::empty())?;
        // Independent of the length of the real path.
        let mounted_at = format!("/proc/self/fd/{}", mounted.as_raw_fd());
        // Otherwise the unmount would propagate to mount namespaces that share the mount.
        match mount_change(&mounted_at, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC) {
            // Not a mount point any more.
            Err(Errno::INVAL) if taken > 0 => return Ok(()),
            changed => changed.map_err(stays)?,
        }
        unmount(&mounted_at, UnmountFlags::DETACH).map_err(stays)?;
    }
    Err(io::Error::other(format!("more than {MAX_STACKED} mounts are on it")))
}

/// Returns the number of the mount that an open file is in: see proc_pid_fdinfo(5).
pub(in crate::executor) fn id_of(file: BorrowedFd<'_>) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}
