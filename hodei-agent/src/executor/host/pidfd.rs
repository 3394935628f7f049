//! Handles of processes (pidfds), which a reused process number cannot redirect.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;

use rustix::process::{Pid, PidfdFlags};
use tokio::io::unix::AsyncFd;

/// Returns a handle that becomes readable once the child has ended. The child still has to be reaped.
///
/// # Errors
/// If no descriptors are left.
pub fn watch_exit(child: &Child) -> io::Result<AsyncFd<OwnedFd>> {
    watch_pid(Pid::from_child(child))
}

#[expect(
    deprecated,
    reason = "sound for an OwnedFd, which keeps its descriptor; the replacement is an unsafe fn"
)]
pub(in crate::executor) fn watch_pid(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    AsyncFd::with_interest(pidfd, tokio::io::Interest::READABLE)
}
