//! Removes the leftovers of attempts on a host, besides processes, after their agent was killed: secrets, control
//! groups and workspaces, which are found by name.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use hodei_core::id::{StoreId, WorkerId};

use crate::executor::host::cgroup;
use crate::executor::host::marks::Marks;
use crate::executor::host::names::{
    TEMP_PREFIX_BYTES, owner_of, prefix_of_owner, temp_prefix, temp_prefix_of_owner, worker_of,
};
use crate::executor::secrets;
use crate::executor::workspace;
use crate::journal;

/// The leftovers of one worker, or of the workers of a provider, on this host.
#[derive(Debug, Clone)]
pub struct Leftovers {
    /// Prefix of the names of leftovers.
    prefix: String,
    /// Prefix of the names of directories for temporary files.
    temp_prefix: String,
    /// Living workers, whose jobs keep their files and groups.
    living: BTreeSet<WorkerId>,
    /// Prefixes of the names of their directories for temporary files.
    living_temp_prefixes: BTreeSet<String>,
}

impl Leftovers {
    /// Returns the leftovers of a worker.
    pub fn of_worker(marks: &Marks) -> Self {
        Self {
            prefix: marks.prefix().to_owned(),
            temp_prefix: marks.temp_prefix().to_owned(),
            living: BTreeSet::new(),
            living_temp_prefixes: BTreeSet::new(),
        }
    }

    /// Returns the leftovers of all workers of a provider except the living ones.
    pub fn of_owner(owner: StoreId, provider: &str, living: BTreeSet<WorkerId>) -> Self {
        let owner = owner_of(owner, provider);
        let living_temp_prefixes = living.iter().map(|worker| temp_prefix(&owner, *worker)).collect();
        let (prefix, temp_prefix) = (prefix_of_owner(&owner), temp_prefix_of_owner(&owner));
        Self { prefix, temp_prefix, living, living_temp_prefixes }
    }

    /// Kills the remaining processes in control groups and wipes secrets. Takes at most half a second per group.
    pub fn kill_and_wipe(&self) {
        // Processes first: they may still read the secrets.
        cgroup::remove_all(|name| self.has(name));
        secrets::wipe_all(|name| self.has(name));
    }

    /// Removes the workspaces in this directory, which takes longer the larger they are. A file that cannot be removed
    /// stays, with a warning that names it.
    pub fn remove_workspaces(&self, dir: &Path) {
        journal::remove_all(dir, |name| self.has(name));
        workspace::remove_all(dir, |name| self.has(name));
    }

    fn has(&self, name: &OsStr) -> bool {
        let Some(name) = name.to_str() else { return false };
        let is_living = worker_of(name).is_some_and(|worker| self.living.contains(&worker))
            || name.get(..TEMP_PREFIX_BYTES).is_some_and(|prefix| self.living_temp_prefixes.contains(prefix));
        let is_temp = || name.starts_with(&self.temp_prefix) && name.find('.') == Some(TEMP_PREFIX_BYTES - 1);
        !is_living && (name.starts_with(&self.prefix) || is_temp())
    }
}

/// Kills and removes all leftovers of a worker. `workspaces` is the directory of its jobs' workspaces.
pub fn clear_leftovers_of(marks: &Marks, workspaces: &Path) {
    let left = Leftovers::of_worker(marks);
    left.kill_and_wipe();
    left.remove_workspaces(workspaces);
}

/// Kills and removes all leftovers of a provider's workers on this host, except the living ones. `workspaces` is the
/// directory of their jobs' workspaces.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::SystemClock;
    use crate::executor::workspace::{WorkspacePool, Workspaces};

    #[test]
    fn temporary_files_of_a_killed_agent_are_removed_and_those_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let id = |number: u128| Uuid::from_u128(number);
        let marks = |owner: u128, worker: u128| {
            Marks::new(StoreId::from_uuid(id(owner)), "local", WorkerId::from_uuid(id(worker)))
        };
        let workspaces = Workspaces { dir: dir.path().to_owned(), only_if_needed: false };
        let pool = WorkspacePool::new(Arc::new(SystemClock::default()), workspaces);
        // Never dropped, as after a kill.
        for (owner, worker) in [(1, 1), (1, 2), (1, 3), (2, 4)] {
            let left = std::mem::ManuallyDrop::new(pool.make_temp(&marks(owner, worker)).unwrap());
            std::fs::write(left.dir().join("file"), "").unwrap();
        }
        let count = || std::fs::read_dir(dir.path()).unwrap().count();
        Leftovers::of_worker(&marks(1, 1)).remove_workspaces(dir.path());
        assert_eq!(count(), 3);
        let living = BTreeSet::from([WorkerId::from_uuid(id(3))]);
        Leftovers::of_owner(StoreId::from_uuid(id(1)), "local", living).remove_workspaces(dir.path());
        assert_eq!(count(), 2, "a living worker keeps its files");
        Leftovers::of_owner(StoreId::from_uuid(id(1)), "local", BTreeSet::new())
            .remove_workspaces(dir.path());
        assert_eq!(count(), 1, "those of another owner stay");
    }
}
