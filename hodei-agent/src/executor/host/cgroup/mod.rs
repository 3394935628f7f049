//! Control groups, of either version, one for each running job: the kernel enforces their limits and keeps track of
//! their processes.
//!
//! See cgroups(7), and Documentation/admin-guide/cgroup-v1 and cgroup-v2 of the kernel.

mod find;
mod kept;
mod removal;
mod v1;
mod v2;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use hodei_core::id::AttemptId;
use hodei_core::job::{JobResources, Usage};
use rustix::process::Signal;

use crate::executor::host::marks::Marks;
use crate::executor::host::marks::name_of;
pub(in crate::executor) use find::Cgroups;
pub(in crate::executor) use kept::{KeptGroup, KeptGroupPool};
use removal::{kill_in, remove, signal_in};

/// The control group of a job. Its processes are killed when it is dropped.
#[derive(Debug)]
pub(in crate::executor) enum Cgroup {
    /// With limits, for this attempt alone.
    Limited(LimitedGroup),
    /// Without limits.
    Kept(KeptGroup),
}

impl Cgroup {
    /// Returns how many of its processes the kernel killed for lack of memory.
    pub(in crate::executor) fn oom_kills(&self) -> u64 {
        match self {
            Self::Limited(group) => group.oom_kills(),
            Self::Kept(_) => 0,
        }
    }

    /// Returns the total usage of its processes, as far as the group counts it.
    pub(in crate::executor) fn usage(&self) -> Usage {
        match self {
            Self::Limited(group) => group.usage(),
            Self::Kept(_) => Usage::default(),
        }
    }

    /// Signals each process in it once.
    pub(in crate::executor) fn signal(&self, signal: Signal) {
        match self {
            // The group of each controller has the same processes.
            Self::Limited(group) => {
                group.dirs.all().first().into_iter().for_each(|dir| signal_in(dir, signal));
            }
            Self::Kept(group) => group.signal(signal),
        }
    }

    /// Kills the processes in it. Returns how many there were.
    pub(in crate::executor) fn kill(&self) -> usize {
        match self {
            Self::Limited(group) => group.dirs.all().into_iter().map(kill_in).max().unwrap_or(0),
            Self::Kept(group) => group.kill(),
        }
    }

    /// Returns whether dropping it may take long, because a group has to be removed.
    pub(in crate::executor) fn is_slow_to_drop(&self) -> bool {
        match self {
            Self::Limited(_) => true,
            Self::Kept(group) => group.has_to_go(),
        }
    }
}

/// The groups of one attempt with limits: one, or one for each controller in version 1. When they are dropped, they are
/// removed and their processes killed.
#[derive(Debug)]
pub(in crate::executor) struct LimitedGroup {
    dirs: Dirs,
}

/// The directories of groups, by version.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Dirs {
    V1(v1::Dirs),
    V2(PathBuf),
}

impl Dirs {
    /// Returns the groups of this name below them.
    fn join(&self, name: &str) -> Self {
        match self {
            Self::V1(dirs) => Self::V1(dirs.join(name)),
            Self::V2(dir) => Self::V2(dir.join(name)),
        }
    }

    fn all(&self) -> Vec<&Path> {
        match self {
            Self::V1(dirs) => dirs.all().collect(),
            Self::V2(dir) => vec![dir],
        }
    }
}

impl LimitedGroup {
    /// Creates the groups of an attempt with its limits. Returns `None` if it has no limits, or if no groups can be
    /// created here.
    ///
    /// # Errors
    /// If a requested limit cannot be set: the job must not run without it.
    pub(in crate::executor) fn make(
        cgroups: &Cgroups,
        marks: &Marks,
        attempt: AttemptId,
        limits: &JobResources,
    ) -> io::Result<Option<Self>> {
        let is_limited = limits.cpu_millis > 0 || limits.memory_bytes > 0 || limits.pids > 0;
        let Some(base) = cgroups.base().filter(|_| is_limited) else { return Ok(None) };
        let group = Self { dirs: base.join(&name_of(marks, attempt)) };
        match &group.dirs {
            Dirs::V1(dirs) => v1::make(dirs, limits)?,
            Dirs::V2(dir) => v2::make(dir, limits)?,
        }
        Ok(Some(group))
    }

    /// Returns the files that move a process into the groups when its number is written to them.
    pub(in crate::executor) fn procs(&self) -> Vec<PathBuf> {
        self.dirs.all().into_iter().map(|dir| dir.join("cgroup.procs")).collect()
    }

    fn oom_kills(&self) -> u64 {
        match &self.dirs {
            Dirs::V1(dirs) => v1::oom_kills(dirs),
            Dirs::V2(dir) => v2::oom_kills(dir),
        }
    }

    fn usage(&self) -> Usage {
        match &self.dirs {
            Dirs::V1(dirs) => v1::usage(dirs),
            Dirs::V2(dir) => v2::usage(dir),
        }
    }
}

impl Drop for LimitedGroup {
    fn drop(&mut self) {
        self.dirs.all().into_iter().for_each(remove);
    }
}

/// Removes all groups whose names match, and kills their processes.
pub(in crate::executor) fn remove_all(is_left: impl Fn(&OsStr) -> bool) {
    let found = Cgroups::find();
    for dir in found.places() {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter(|entry| is_left(&entry.file_name())).for_each(|entry| remove(&entry.path()));
    }
}

/// Creates a group. An existing one of the same attempt was left by a killed agent and is removed.
fn create(dir: &Path) -> io::Result<()> {
    std::fs::create_dir(dir).or_else(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            remove(dir);
            std::fs::create_dir(dir)
        } else {
            Err(error)
        }
    })
}

/// Returns the number in a file of a group.
fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Returns the number behind a word in a file of a group.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::mem::ManuallyDrop;

    use hodei_core::id::{JobId, StoreId, WorkerId};
    use uuid::Uuid;

    use super::*;
    use crate::executor::leftovers::clear_leftovers_of_owner;

    #[test]
    fn groups_left_by_a_killed_host_are_killed_by_their_owner() {
        let id = Uuid::from_u128(u128::from(std::process::id()));
        let (owner, worker) = (StoreId::from_uuid(id), WorkerId::from_uuid(id));
        let marks = Marks::new(owner, "tests of groups", worker);
        let attempt = AttemptId { job: JobId::from_uuid(id), number: 1 };
        let limits = JobResources { pids: 9, ..JobResources::default() };
        let Some(left) = LimitedGroup::make(&Cgroups::find(), &marks, attempt, &limits).unwrap() else {
            eprintln!("skipped: this process may create no control groups here");
            return;
        };
        let left = ManuallyDrop::new(left);
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        // Like a job that runs containers: its own group is empty.
        for procs in left.procs() {
            let below = procs.with_file_name("below");
            std::fs::create_dir_all(below.join("lower")).unwrap();
            std::fs::write(below.join("lower/cgroup.procs"), child.id().to_string()).unwrap();
        }
        let clear = |living: BTreeSet<WorkerId>| {
            clear_leftovers_of_owner(owner, "tests of groups", Path::new("/nowhere"), &living);
            left.dirs.all().into_iter().any(Path::exists)
        };
        assert!(clear(BTreeSet::from([worker])));
        assert!(child.try_wait().unwrap().is_none(), "a living worker keeps its jobs");
        assert!(!clear(BTreeSet::new()));
        assert!(!child.wait().unwrap().success());
    }
}
