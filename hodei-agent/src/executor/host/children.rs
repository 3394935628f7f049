//! The children of this process: those that an executor waits for, and strangers adopted when their parents died.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hodei_core::id::AttemptId;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::executor::host::main_process::MainProcess;
use crate::executor::host::marks::attempt_of;
use crate::executor::host::procfs::{Stat, all_processes, stat};

/// The processes that an executor started and waits for. All clones share them.
#[derive(Debug, Clone, Default)]
pub struct Children {
    known: Arc<Mutex<BTreeMap<i32, AttemptId>>>,
    /// Held while a process is started, so that it does not count as a stranger before it is known.
    starting: Arc<RwLock<()>>,
    /// Children that did not die when they were killed. No executor waits for them, but they are reaped once they are
    /// dead.
    given_up: Arc<Mutex<Vec<Pid>>>,
    /// Whether this process adopts strangers.
    is_reaper: Arc<AtomicBool>,
}

/// A known child. Drop it right after the child is reaped, since its number may then be reused for another child.
#[derive(Debug)]
pub(in crate::executor) struct Known {
    children: Children,
    pid: i32,
    attempt: AttemptId,
}

impl Known {
    /// Stops waiting for a child that did not die when it was killed.
    pub(in crate::executor) fn give_up(self) {
        // A process that reaps strangers treats it as one from now on.
        if !self.children.is_reaper.load(Ordering::Relaxed) {
            self.children.given_up().extend(Pid::from_raw(self.pid));
        }
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        let mut known = self.children.known();
        if known.get(&self.pid) == Some(&self.attempt) {
            known.remove(&self.pid);
        }
    }
}

impl Children {
    /// Starts a process for an attempt.
    pub(in crate::executor) fn start(
        &self,
        attempt: AttemptId,
        start: impl FnOnce() -> io::Result<MainProcess>,
    ) -> io::Result<(MainProcess, Known)> {
        let _starting = self.starting.read().unwrap_or_else(PoisonError::into_inner);
        self.reap_given_up();
        let main = start()?;
        let pid = main.pid().as_raw_nonzero().get();
        self.known().insert(pid, attempt);
        Ok((main, Known { children: self.clone(), pid, attempt }))
    }

    /// Reaps the given-up children that are dead. A child keeps its number until it is reaped, and only this reaps
    /// them.
    fn reap_given_up(&self) {
        let is_there =
            |pid: &Pid| matches!(rustix::process::waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None));
        self.given_up().retain(is_there);
    }

    fn given_up(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<i32, AttemptId>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that this process adopts orphaned processes of jobs from now on.
    pub(crate) fn reap_strangers(&self) {
        self.is_reaper.store(true, Ordering::Relaxed);
    }

    /// Returns whether a process that a job left behind may be alive. Always true if this process does not adopt
    /// strangers. Strangers become children of the first thread: see find_new_reaper in the kernel's exit.c, and
    /// proc_pid_children(5).
    pub(crate) fn may_have_strays(&self) -> bool {
        if !self.is_reaper.load(Ordering::Relaxed) {
            return true;
        }
        let this = this_process();
        let Ok(there) = std::fs::read_to_string(format!("/proc/{this}/task/{this}/children")) else {
            return true;
        };
        let known = self.known();
        there.split_whitespace().any(|pid| pid.parse().map_or(true, |pid: i32| !known.contains_key(&pid)))
    }

    /// Returns the strangers among the children of this process, dead or alive.
    pub fn strangers(&self) -> Vec<i32> {
        let there = children_of_this_process();
        let _no_starts = self.starting.write().unwrap_or_else(PoisonError::into_inner);
        let known = self.known();
        there.into_iter().filter(|pid| !known.contains_key(pid)).collect()
    }

    /// Reaps dead strangers and kills those whose job is over, except those in `exempt`. For a process whose only
    /// children are jobs. Returns whether there were any.
    pub fn settle(&self, exempt: &[i32]) -> bool {
        // Before the lock, which delays starts: this reads every process of the machine.
        let there = children_of_this_process();
        let _no_starts = self.starting.write().unwrap_or_else(PoisonError::into_inner);
        let (mut were_any, own_session) = (false, own_session());
        for pid in there.into_iter().filter(|pid| !exempt.contains(pid)) {
            if !self.known().contains_key(&pid) {
                were_any |= self.settle_stranger(pid, own_session);
            }
        }
        were_any
    }

    /// Reaps or kills a stranger. Returns whether it existed and belonged to a job.
    fn settle_stranger(&self, pid: i32, own_session: Option<i32>) -> bool {
        let (Some(stat), Some(handle)) = (stat(pid), Pid::from_raw(pid)) else { return false };
        // A job has its own session, and its processes cannot join an older one.
        let is_of_a_job = own_session.is_some_and(|own| own != stat.session);
        if stat.parent != this_process() || (stat.is_alive && !is_of_a_job) {
            return false;
        }
        if !stat.is_alive {
            let _ = rustix::process::waitpid(Some(handle), WaitOptions::NOHANG);
            return true;
        }
        // A child keeps its number until it is reaped, so `pid` is still the same process.
        if self.is_orphaned(pid, &stat)
            && let Ok(handle) = rustix::process::pidfd_open(handle, PidfdFlags::empty())
        {
            match rustix::process::pidfd_send_signal(&handle, Signal::KILL) {
                Ok(()) => tracing::info!(pid, "killed a process that outlived its job"),
                Err(error) => {
                    tracing::debug!(pid, %error, "a process that outlived its job cannot be killed")
                }
            }
        }
        true
    }

    /// Returns whether the job of a stranger has ended. A stranger without a mark belongs to a job that started before
    /// it: if no such job runs, its own does not run either.
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

fn this_process() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Returns the session of this process: 0 if it was created outside of its pid namespace. Does not use getsid(2), since
/// rustix takes a 0 for a valid number.
fn own_session() -> Option<i32> {
    stat(this_process()).map(|own| own.session)
}

fn children_of_this_process() -> Vec<i32> {
    let this = this_process();
    all_processes().filter(|(_, stat)| stat.parent == this).map(|(pid, _)| pid).collect()
}
