//! Shortages of the machine: descriptors, processes, memory, disk space. They may pass when other jobs end, and are
//! never the fault of the waiting job.

use std::fmt;
use std::io;
use std::time::Duration;

use hodei_core::job::FailureCause;
use rustix::io::Errno;

/// How long a job waits during a shortage before its attempt is given back; less than the dispatch timeout.
pub(in crate::executor) const SHORTAGE_TIMEOUT: Duration = Duration::from_secs(6);
/// Interval between retries.
pub(in crate::executor) const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Why a process was not started.
#[derive(Debug)]
pub(in crate::executor) enum NotStarted {
    /// A retry would fail too.
    Failed(FailureCause),
    /// The machine lacks resources; the text names them.
    Short(String),
}

impl NotStarted {
    /// Classifies an error of the system: a shortage, or else a failure with this cause.
    pub(in crate::executor) fn of(
        error: &io::Error,
        what: impl fmt::Display,
        cause: impl FnOnce() -> FailureCause,
    ) -> Self {
        if is_shortage(error) { Self::Short(format!("{what}: {error}")) } else { Self::Failed(cause()) }
    }
}

impl From<FailureCause> for NotStarted {
    fn from(cause: FailureCause) -> Self {
        Self::Failed(cause)
    }
}

/// Returns whether an error means a shortage: see fork(2), pipe(2), pidfd_open(2), epoll_ctl(2), mkdir(2) and open(2).
pub(in crate::executor) fn is_shortage(error: &io::Error) -> bool {
    let short =
        [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::NOSPC, Errno::DQUOT, Errno::NOBUFS];
    error.raw_os_error().is_some_and(|code| short.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_distinguished_from_a_mistake() {
        for errno in [Errno::MFILE, Errno::AGAIN, Errno::NOSPC] {
            assert!(is_shortage(&io::Error::from_raw_os_error(errno.raw_os_error())), "{errno}");
        }
        for errno in [Errno::NOENT, Errno::ACCESS, Errno::TOOBIG, Errno::TXTBSY] {
            assert!(!is_shortage(&io::Error::from_raw_os_error(errno.raw_os_error())), "{errno}");
        }
        assert!(!is_shortage(&io::Error::other("a pipe is missing")));
    }
}
