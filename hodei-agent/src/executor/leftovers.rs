//! What attempts leave on a host beside processes, when whoever ran them was killed: secrets, control groups and workspaces.
//! Their names say whose they are.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use hodei_core::id::{AttemptId, StoreId, WorkerId};
use uuid::Uuid;

use super::tree::{Marks, owner_of};
use super::{cgroup, secrets, workspace};

/// What every name begins with.
pub(super) const PREFIX: &str = "hodei-";

/// Kills and removes what attempts of a worker left; `workspaces` is where its jobs have theirs.
pub fn clear_leftovers_of(marks: &Marks, workspaces: &Path) {
    clear(marks.prefix(), workspaces, &BTreeSet::new());
}

/// Kills and removes what attempts of any worker of a provider left on this host, but for those workers that live;
/// `workspaces` is where its jobs have theirs.
pub fn clear_leftovers_of_owner(
    owner: StoreId,
    provider: &str,
    workspaces: &Path,
    living: &BTreeSet<WorkerId>,
) {
    clear(&prefix_of_owner(&owner_of(owner, provider)), workspaces, living);
}

/// The name of all that an attempt has.
pub(super) fn name_of(marks: &Marks, attempt: AttemptId) -> String {
    format!("{}{}.{}", marks.prefix(), attempt.job, attempt.number)
}

fn clear(prefix: &str, workspaces: &Path, living: &BTreeSet<WorkerId>) {
    let is_living = |name: &str| worker_of(name).is_some_and(|worker| living.contains(&worker));
    let is_left =
        |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with(prefix) && !is_living(name));
    // First who may still read the secrets.
    cgroup::remove_all(is_left);
    secrets::wipe_all(is_left);
    workspace::remove_all(workspaces, is_left);
}

/// Fixed in length, whatever a provider is called.
pub(super) fn prefix_of_owner(owner: &str) -> String {
    format!("{PREFIX}{}.", Uuid::new_v5(&Uuid::NAMESPACE_URL, owner.as_bytes()).simple())
}

fn worker_of(name: &str) -> Option<WorkerId> {
    name.split('.').nth(1)?.parse().ok()
}
