//! What attempts leave on a host beside processes, when whoever ran them was killed: secrets, control groups and workspaces.
//! Their names say whose they are.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use hodei_core::id::{AttemptId, StoreId, WorkerId};
use uuid::Uuid;

use super::tree::{Marks, owner_of};
use super::{cgroup, secrets, workspace};
use crate::journal;

/// What every name begins with.
pub(super) const PREFIX: &str = "hodei-";

/// What attempts of one worker, or of the workers of a provider, left on this host.
#[derive(Debug, Clone)]
pub struct Leftovers {
    /// What the names of all of it begin with.
    prefix: String,
    /// Workers whose jobs keep what they have.
    living: BTreeSet<WorkerId>,
}

impl Leftovers {
    /// What attempts of a worker left.
    pub fn of_worker(marks: &Marks) -> Self {
        Self { prefix: marks.prefix().to_owned(), living: BTreeSet::new() }
    }

    /// What attempts of any worker of a provider left, but for those workers that live.
    pub fn of_owner(owner: StoreId, provider: &str, living: BTreeSet<WorkerId>) -> Self {
        Self { prefix: prefix_of_owner(&owner_of(owner, provider)), living }
    }

    /// Kills what is left in control groups, and wipes secrets. It takes half a second a group at most.
    pub fn kill_and_wipe(&self) {
        // First who may still read the secrets.
        cgroup::remove_all(|name| self.has(name));
        secrets::wipe_all(|name| self.has(name));
    }

    /// Removes the workspaces in this directory, which takes as long as they are large. What cannot be removed stays, with a
    /// warning that names it.
    pub fn remove_workspaces(&self, dir: &Path) {
        journal::remove_all(dir, |name| self.has(name));
        workspace::remove_all(dir, |name| self.has(name));
    }

    fn has(&self, name: &OsStr) -> bool {
        let is_living = |name: &str| worker_of(name).is_some_and(|worker| self.living.contains(&worker));
        name.to_str().is_some_and(|name| name.starts_with(&self.prefix) && !is_living(name))
    }
}

/// Kills and removes all that attempts of a worker left; `workspaces` is where its jobs have theirs.
pub fn clear_leftovers_of(marks: &Marks, workspaces: &Path) {
    let left = Leftovers::of_worker(marks);
    left.kill_and_wipe();
    left.remove_workspaces(workspaces);
}

/// Kills and removes all that attempts of any worker of a provider left on this host, but for those workers that live;
/// `workspaces` is where its jobs have theirs.
pub fn clear_leftovers_of_owner(
    owner: StoreId,
    provider: &str,
    workspaces: &Path,
    living: &BTreeSet<WorkerId>,
) {
    let left = Leftovers::of_owner(owner, provider, living.clone());
    left.kill_and_wipe();
    left.remove_workspaces(workspaces);
}

/// The name of all that an attempt has.
pub(super) fn name_of(marks: &Marks, attempt: AttemptId) -> String {
    format!("{}{}.{}", marks.prefix(), attempt.job, attempt.number)
}

/// What the names of all that workers of a provider have begin with.
pub(crate) fn prefix_of_provider(owner: StoreId, provider: &str) -> String {
    prefix_of_owner(&owner_of(owner, provider))
}

/// Fixed in length, whatever a provider is called.
pub(super) fn prefix_of_owner(owner: &str) -> String {
    format!("{PREFIX}{}.", Uuid::new_v5(&Uuid::NAMESPACE_URL, owner.as_bytes()).simple())
}

/// The worker in a name that one of its attempts, or its agent, gave.
pub(crate) fn worker_of(name: &str) -> Option<WorkerId> {
    name.split('.').nth(1)?.parse().ok()
}
