//! Finds and signals every process of a job by marks in its environment.
//!
//! A process of a job may leave its process group (`setsid`) and its parents (double fork). It keeps the mark in its
//! environment, so /proc is searched for marks and for parentage. The search runs only if a job is stopped or left
//! processes behind, never for a job that ends well.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::time::Duration;

use hodei_core::id::{AttemptId, OrderId, StoreId, WorkerId};
use hodei_core::port::Clock;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;

use crate::executor::host::names::{owner_of, prefix_of_owner, temp_prefix};
use crate::executor::host::pidfd::watch_pid;
use crate::executor::host::procfs::{all_processes, stat};

/// The variable with the owner and the provider.
const OWNER_VARIABLE: &str = "HODEI_OWNER";
/// The variable with the worker.
const WORKER_VARIABLE: &str = "HODEI_WORKER_ID";
/// The variable with the order, of an agent in its own process. Jobs do not inherit it.
const ORDER_VARIABLE: &str = "HODEI_ORDER_ID";

/// The variables that mark each process of a worker's jobs.
#[derive(Debug, Clone)]
pub struct Marks {
    owner: String,
    worker: WorkerId,
    /// Prefix of the names of everything that the worker's attempts own on the host.
    prefix: String,
    /// Prefix of the names of their directories for temporary files.
    temp_prefix: String,
}

impl Marks {
    /// Returns the marks of a worker that this provider created for the owner.
    pub fn new(owner: StoreId, provider: &str, worker: WorkerId) -> Self {
        let owner = owner_of(owner, provider);
        let prefix = format!("{}{worker}.", prefix_of_owner(&owner));
        let temp_prefix = temp_prefix(&owner, worker);
        Self { owner, worker, prefix, temp_prefix }
    }

    /// Returns the prefix of the names of everything that the worker's attempts own on the host.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the prefix of the names of their directories for temporary files.
    pub(in crate::executor) fn temp_prefix(&self) -> &str {
        &self.temp_prefix
    }

    /// Returns the marks of one attempt as variables, those of the job first.
    pub(in crate::executor) fn of_job(
        &self,
        attempt: AttemptId,
    ) -> impl Iterator<Item = (&'static str, String)> {
        [
            ("HODEI_JOB_ID", attempt.job.to_string()),
            ("HODEI_ATTEMPT", attempt.number.to_string()),
            (WORKER_VARIABLE, self.worker.to_string()),
            (OWNER_VARIABLE, self.owner.clone()),
        ]
        .into_iter()
    }

    /// Returns the marks of every process of an attempt. They include the owner, since the jobs of a copied store have
    /// the same ids.
    pub(in crate::executor) fn of_attempt(&self, attempt: AttemptId) -> Vec<String> {
        self.of_job(attempt).map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Returns the variables of an agent in its own process.
    pub fn of_agent(&self, order: OrderId) -> [(&'static str, String); 3] {
        [
            (OWNER_VARIABLE, self.owner.clone()),
            (WORKER_VARIABLE, self.worker.to_string()),
            (ORDER_VARIABLE, order.to_string()),
        ]
    }

    /// Returns the mark of every process that any worker of this provider runs on this host for the owner.
    pub fn of_owner(owner: StoreId, provider: &str) -> Vec<String> {
        vec![format!("{OWNER_VARIABLE}={}", owner_of(owner, provider))]
    }

    /// Returns the marks of every process of the worker. They include the owner, since the worker of a copied store has
    /// the same id.
    pub fn of_worker(&self) -> Vec<String> {
        vec![format!("{WORKER_VARIABLE}={}", self.worker), format!("{OWNER_VARIABLE}={}", self.owner)]
    }
}

/// Returns the name of everything that an attempt owns on the host.
pub(in crate::executor) fn name_of(marks: &Marks, attempt: AttemptId) -> String {
    format!("{}{}.{}", marks.prefix(), attempt.job, attempt.number)
}

/// Returns the workers of a provider with a process on this host, each with its order while its agent lives.
pub fn marked_workers(owner: StoreId, provider: &str) -> BTreeMap<WorkerId, Option<OrderId>> {
    let mut workers = BTreeMap::new();
    for pid in marked_processes(&Marks::of_owner(owner, provider)) {
        // A process without a mark descends from one that has it.
        let environ = environ(pid);
        let Some(worker) = variable(&environ, WORKER_VARIABLE).and_then(|text| text.parse().ok()) else {
            continue;
        };
        let order = variable(&environ, ORDER_VARIABLE).and_then(|text| text.parse().ok());
        let known = workers.entry(worker).or_insert(None);
        *known = known.or(order);
    }
    workers
}

/// A living agent on this host.
#[derive(Debug)]
pub struct LivingAgent {
    /// Its worker.
    pub worker: WorkerId,
    /// The order that it was created for.
    pub order: OrderId,
    /// Readable once the agent has ended.
    pub exit: AsyncFd<OwnedFd>,
}

/// Returns the living agents of a provider on this host, also those that another process started.
pub fn living_agents(owner: StoreId, provider: &str) -> Vec<LivingAgent> {
    let agent = |pid: i32| {
        let environ = environ(pid);
        let (worker, order) = (variable(&environ, WORKER_VARIABLE)?, variable(&environ, ORDER_VARIABLE)?);
        let exit = watch_pid(Pid::from_raw(pid)?).ok()?;
        // Marked after the handle was opened, so the number was not reused before. A process whose parent has the mark
        // too is a child that still shares the agent's memory, before its execve.
        let mark = [format!("{ORDER_VARIABLE}={order}")];
        let is_it = has_marks(pid, &mark) && !has_marks(stat(pid)?.parent, &mark);
        Some(LivingAgent { worker: worker.parse().ok()?, order: order.parse().ok()?, exit }).filter(|_| is_it)
    };
    marked_processes(&Marks::of_owner(owner, provider)).into_iter().filter_map(agent).collect()
}

/// Returns the initial environment of a process, each variable terminated by a zero byte. Empty if the process is gone
/// or belongs to another user.
fn environ(pid: i32) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()
}

fn variable<'a>(environ: &'a [u8], name: &str) -> Option<&'a str> {
    let variables =
        environ.split(|byte| *byte == 0).filter_map(|variable| std::str::from_utf8(variable).ok());
    variables.into_iter().find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='))
}

/// Returns the living processes with all these marks (`NAME=value`), and their descendants. Zombies do not count.
pub fn marked_processes(marks: &[String]) -> BTreeSet<i32> {
    let mut parents = BTreeMap::new();
    let mut found = BTreeSet::new();
    for (pid, stat) in all_processes().filter(|(_, stat)| stat.is_alive) {
        parents.insert(pid, stat.parent);
        if has_marks(pid, marks) {
            found.insert(pid);
        }
    }
    loop {
        let children: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if children.is_empty() {
            return found;
        }
        found.extend(children);
    }
}

/// Returns the attempt that a process is marked with.
pub(in crate::executor) fn attempt_of(pid: i32) -> Option<AttemptId> {
    let environ = environ(pid);
    let job = variable(&environ, "HODEI_JOB_ID")?.parse().ok()?;
    Some(AttemptId { job, number: variable(&environ, "HODEI_ATTEMPT")?.parse().ok()? })
}

fn has_marks(pid: i32, marks: &[String]) -> bool {
    let environ = environ(pid);
    let has = |mark: &String| environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
    marks.iter().all(has)
}

/// Signals every process with these marks and their descendants, by pidfd, so that a reused number cannot hit another
/// process. Returns how many there were.
pub(in crate::executor) fn signal_marked(marks: &[String], signal: Signal) -> usize {
    let found = marked_processes(marks);
    // Opens all handles before the first signal: an unmarked process can be attributed only while its parent lives.
    let handle = |pid: &i32| {
        let handle = rustix::process::pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok()?;
        // Still one of them after the handle was opened, so the number was not reused before.
        let is_ours = has_marks(*pid, marks) || stat(*pid).is_some_and(|stat| found.contains(&stat.parent));
        is_ours.then_some(handle)
    };
    let handles: Vec<_> = found.iter().filter_map(handle).collect();
    for handle in &handles {
        let _ = rustix::process::pidfd_send_signal(handle, signal);
    }
    found.len()
}

/// Kills every process with these marks and waits until none lives, for at most one second. Returns whether none lives.
pub async fn kill_marked(clock: &dyn Clock, marks: &[String]) -> bool {
    for _ in 0..100 {
        if signal_marked(marks, Signal::KILL) == 0 {
            return true;
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
    marked_processes(marks).is_empty()
}
