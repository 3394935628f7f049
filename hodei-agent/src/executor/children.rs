//! The children of this process: those that somebody waits for, and strangers that came when their parents died.

use std::collections::BTreeMap;
use std::io;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hodei_core::id::AttemptId;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use super::tree::{Stat, attempt_of, stat, stats};

/// The processes that an executor started and waits for. All clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Children {
    known: Arc<Mutex<BTreeMap<i32, AttemptId>>>,
    /// Held while a process is started, so that nobody takes it for a stranger before it is known.
    starting: Arc<RwLock<()>>,
}

/// A known child; it is forgotten when this is dropped, by when it must have been waited for.
#[derive(Debug)]
pub(super) struct Known {
    children: Children,
    pid: i32,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.children.known().remove(&self.pid);
    }
}

impl Children {
    /// Starts a process for an attempt.
    pub(super) fn start(
        &self,
        attempt: AttemptId,
        start: impl FnOnce() -> io::Result<Child>,
    ) -> io::Result<(Child, Known)> {
        let _starting = self.starting.read().unwrap_or_else(PoisonError::into_inner);
        let child = start()?;
        let pid = Pid::from_child(&child).as_raw_nonzero().get();
        self.known().insert(pid, attempt);
        Ok((child, Known { children: self.clone(), pid }))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<i32, AttemptId>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The strangers among the children of this process, dead or alive.
    pub fn strangers(&self) -> Vec<i32> {
        let this = rustix::process::getpid().as_raw_nonzero().get();
        let _nobody_starts = self.starting.write().unwrap_or_else(PoisonError::into_inner);
        let known = self.known();
        stats()
            .filter(|(pid, stat)| stat.parent == this && !known.contains_key(pid))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Reaps strangers that are dead and kills those whose job is over; for a process that has no other children than
    /// jobs. Those of `exempt` are left alone.
    pub fn settle(&self, exempt: &[i32]) {
        for pid in self.strangers().into_iter().filter(|pid| !exempt.contains(pid)) {
            let (Some(stat), Some(handle)) = (stat(pid), Pid::from_raw(pid)) else { continue };
            if !stat.is_alive {
                let _ = rustix::process::waitpid(Some(handle), WaitOptions::NOHANG);
                continue;
            }
            // A child of ours keeps its number until we reap it: this is the process that was looked at.
            if self.is_orphaned(pid, &stat)
                && let Ok(handle) = rustix::process::pidfd_open(handle, PidfdFlags::empty())
            {
                tracing::info!(pid, "killed a process that outlived its job");
                let _ = rustix::process::pidfd_send_signal(&handle, Signal::KILL);
            }
        }
    }

    /// Whether the job that a stranger came from has ended. One that threw its mark away came from a job that began
    /// before it: when none of those runs, its own does not.
    fn is_orphaned(&self, pid: i32, stranger: &Stat) -> bool {
        let known = self.known();
        match attempt_of(pid) {
            Some(attempt) => !known.values().any(|running| *running == attempt),
            None => {
                !known.keys().any(|job| self::stat(*job).is_none_or(|job| job.started <= stranger.started))
            }
        }
    }
}
