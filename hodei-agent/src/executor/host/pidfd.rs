//! Handles of processes, which cannot come to mean other processes.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;

use rustix::process::{Pid, PidfdFlags};
use tokio::io::unix::AsyncFd;

/// Readable once the child has ended; it still has to be waited for.
///
/// # Errors
/// When the system gives no more descriptors.
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
