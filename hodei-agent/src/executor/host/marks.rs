//! Finding and signalling every process of a job.
//!
//! A job may leave its process group (`setsid`) and its parents (double fork). What it cannot lose by that is the
//! mark in its environment, so /proc is read for marks and for parentage. It is read only when a job is stopped
//! or left something behind, never on the way of a job that ends well.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::time::Duration;

use hodei_core::id::{AttemptId, OrderId, StoreId, WorkerId};
use hodei_core::port::Clock;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;

use crate::executor::host::names::{owner_of, prefix_of_owner, temp_prefix};
use crate::executor::host::pidfd::watch_pid;
use crate::executor::host::procfs::{stat, stats};

/// Names the owner and the provider in the environment of a process.
const OWNER: &str = "HODEI_OWNER";
/// Names the worker in the environment of a process.
const WORKER: &str = "HODEI_WORKER_ID";
/// Names the order in the environment of an agent that is a process of its own; its jobs do not inherit it.
const ORDER: &str = "HODEI_ORDER_ID";

/// Variables in the environment of each process of a job.
#[derive(Debug, Clone)]
pub struct Marks {
    owner: String,
    worker: WorkerId,
    /// What the names of all that attempts of the worker have begin with.
    prefix: String,
    /// The same of its directories for temporary files.
    temp_prefix: String,
}

impl Marks {
    /// The marks of a worker that this provider made for the owner.
    pub fn new(owner: StoreId, provider: &str, worker: WorkerId) -> Self {
        let owner = owner_of(owner, provider);
        let prefix = format!("{}{worker}.", prefix_of_owner(&owner));
        let temp_prefix = temp_prefix(&owner, worker);
        Self { owner, worker, prefix, temp_prefix }
    }

    /// What the names of all that attempts of the worker have begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What the names of directories for temporary files of its attempts begin with.
    pub(in crate::executor) fn temp_prefix(&self) -> &str {
        &self.temp_prefix
    }

    /// The marks of one attempt, the job's own variables first.
    pub(in crate::executor) fn of_job(
        &self,
        attempt: AttemptId,
    ) -> impl Iterator<Item = (&'static str, String)> {
        [
            ("HODEI_JOB_ID", attempt.job.to_string()),
            ("HODEI_ATTEMPT", attempt.number.to_string()),
            (WORKER, self.worker.to_string()),
            (OWNER, self.owner.clone()),
        ]
        .into_iter()
    }

    /// The marks of everything that an attempt runs here: the jobs of a copied store have the same ids.
    pub(in crate::executor) fn of_attempt(&self, attempt: AttemptId) -> Vec<String> {
        self.of_job(attempt).map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// The variables of an agent that is a process of its own.
    pub fn of_agent(&self, order: OrderId) -> [(&'static str, String); 3] {
        [(OWNER, self.owner.clone()), (WORKER, self.worker.to_string()), (ORDER, order.to_string())]
    }

    /// The mark of everything that any worker of this provider runs on this host for the owner.
    pub fn of_owner(owner: StoreId, provider: &str) -> Vec<String> {
        vec![format!("{OWNER}={}", owner_of(owner, provider))]
    }

    /// The marks of everything that the worker runs for its owner: the worker of a copied store has the same id.
    pub fn of_worker(&self) -> Vec<String> {
        vec![format!("{WORKER}={}", self.worker), format!("{OWNER}={}", self.owner)]
    }
}

/// The name of all that an attempt has.
pub(in crate::executor) fn name_of(marks: &Marks, attempt: AttemptId) -> String {
    format!("{}{}.{}", marks.prefix(), attempt.job, attempt.number)
}

/// The workers of a provider that have a process on this host, each with its order while its agent lives.
pub fn marked_workers(owner: StoreId, provider: &str) -> BTreeMap<WorkerId, Option<OrderId>> {
    let mut workers = BTreeMap::new();
    for pid in marked_processes(&Marks::of_owner(owner, provider)) {
        // A process without a mark is the child of one with it, and says nothing new.
        let environ = environ(pid);
        let Some(worker) = variable(&environ, WORKER).and_then(|text| text.parse().ok()) else { continue };
        let order = variable(&environ, ORDER).and_then(|text| text.parse().ok());
        let known = workers.entry(worker).or_insert(None);
        *known = known.or(order);
    }
    workers
}

/// An agent that lives on this host.
#[derive(Debug)]
pub struct LivingAgent {
    /// Its worker.
    pub worker: WorkerId,
    /// Why it was made.
    pub order: OrderId,
    /// Readable once it has ended.
    pub exit: AsyncFd<OwnedFd>,
}

/// The agents of a provider that live on this host, whoever started them.
pub fn living_agents(owner: StoreId, provider: &str) -> Vec<LivingAgent> {
    let agent = |pid: i32| {
        let environ = environ(pid);
        let (worker, order) = (variable(&environ, WORKER)?, variable(&environ, ORDER)?);
        let exit = watch_pid(Pid::from_raw(pid)?).ok()?;
        // Still it once we hold it, so the number was not reused in between; and not a child that has its memory until
        // it becomes a program of its own.
        let mark = [format!("{ORDER}={order}")];
        let is_it = has_marks(pid, &mark) && !has_marks(stat(pid)?.parent, &mark);
        Some(LivingAgent { worker: worker.parse().ok()?, order: order.parse().ok()?, exit }).filter(|_| is_it)
    };
    marked_processes(&Marks::of_owner(owner, provider)).into_iter().filter_map(agent).collect()
}

/// The variables that a process was started with, each ended by a zero; none when it is gone or another's.
fn environ(pid: i32) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()
}

fn variable<'a>(environ: &'a [u8], name: &str) -> Option<&'a str> {
    let variables =
        environ.split(|byte| *byte == 0).filter_map(|variable| std::str::from_utf8(variable).ok());
    variables.into_iter().find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='))
}

/// Living processes with all these marks (`NAME=value`), and their descendants. Zombies do not count.
pub fn marked_processes(marks: &[String]) -> BTreeSet<i32> {
    let mut parents = BTreeMap::new();
    let mut found = BTreeSet::new();
    for (pid, stat) in stats().filter(|(_, stat)| stat.is_alive) {
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

/// The attempt that a process is marked with.
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

/// Signals every process with these marks, by handles that cannot come to mean other processes.
pub(in crate::executor) fn signal_marked(marks: &[String], signal: Signal) -> usize {
    let found = marked_processes(marks);
    // Every handle before the first signal: with its parent gone, a process that threw its mark away is nobody's.
    let handle = |pid: &i32| {
        let handle = rustix::process::pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok()?;
        // Still one of ours once we hold it, so the number was not reused in between.
        let is_ours = has_marks(*pid, marks) || stat(*pid).is_some_and(|stat| found.contains(&stat.parent));
        is_ours.then_some(handle)
    };
    let handles: Vec<_> = found.iter().filter_map(handle).collect();
    for handle in &handles {
        let _ = rustix::process::pidfd_send_signal(handle, signal);
    }
    found.len()
}

/// Kills every process with these marks and waits until none lives, at most one second.
/// Returns whether none does.
pub async fn kill_marked(clock: &dyn Clock, marks: &[String]) -> bool {
    for _ in 0..100 {
        if signal_marked(marks, Signal::KILL) == 0 {
            return true;
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
    marked_processes(marks).is_empty()
}
