//! Finds the control groups of this machine in which this process may create groups.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::kept::{KeptGroupPool, Place};
use super::{Dirs, v1};
use crate::executor::host::marks::Marks;
use crate::executor::host::names::PREFIX;

/// The directories for the groups of jobs, below the group of this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cgroups {
    /// For jobs with limits.
    base: Option<Dirs>,
    /// For jobs without limits.
    kept: Option<Place>,
}

/// The controllers that a group of version 2 needs, and that its parent must therefore enable.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

impl Cgroups {
    /// Looks at the groups of this process. The result is empty if it may create none.
    pub(crate) fn find() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self::of(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    /// Parses the texts of proc_pid_mountinfo(5) and cgroups(7).
    fn of(mounts: &str, groups: &str) -> Self {
        let v1 = v1::Dirs {
            memory: v1_dir(mounts, groups, "memory"),
            cpu: v1_dir(mounts, groups, "cpu"),
            cpuacct: v1_dir(mounts, groups, "cpuacct"),
            pids: v1_dir(mounts, groups, "pids"),
        };
        let v2 = v2_dirs(mounts, groups);
        let own = v2.first().filter(|dir| is_writable(dir)).cloned().map(Place::V2);
        let kept = v1.pids.clone().map(Place::V1).or(own);
        if v1 != v1::Dirs::default() {
            return Self { base: Some(Dirs::V1(v1)), kept };
        }
        let v2 = v2.into_iter().find(|dir| is_writable(dir) && enables_controllers(dir));
        Self { base: v2.map(Dirs::V2), kept }
    }

    /// Returns the groups that an executor keeps for jobs without limits.
    pub(in crate::executor) fn kept(&self, marks: &Marks) -> KeptGroupPool {
        KeptGroupPool::new(self.kept.clone(), marks)
    }

    /// Returns every directory that may contain groups of jobs.
    pub(in crate::executor) fn places(&self) -> BTreeSet<&Path> {
        let limited = self.base.iter().flat_map(Dirs::all);
        limited.chain(self.kept.as_ref().map(Place::dir)).collect()
    }

    /// Returns whether groups with limits can be created.
    pub(crate) fn is_there(&self) -> bool {
        self.base.is_some()
    }

    pub(super) fn base(&self) -> Option<&Dirs> {
        self.base.as_ref()
    }
}

/// Returns the root, the mount point and the options of each mounted file system of a kind.
fn mounts_of<'a>(mounts: &'a str, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
    mounts.lines().filter_map(move |line| {
        let (before, behind) = line.split_once(" - ")?;
        let mut behind = behind.split(' ');
        if behind.next()? != kind {
            return None;
        }
        let options = behind.nth(1)?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        Some((root, point, options))
    })
}

/// Returns the directory of a group: its path relative to the mounted root, below the mount point.
fn dir_of(root: &str, point: &str, group: &str) -> PathBuf {
    let below = if root == "/" { group } else { group.strip_prefix(root).unwrap_or("") };
    Path::new(point).join(below.trim_start_matches('/'))
}

fn v1_dir(mounts: &str, groups: &str, controller: &str) -> Option<PathBuf> {
    let has = |list: &str| list.split(',').any(|name| name == controller);
    let (root, point, _) = mounts_of(mounts, "cgroup").find(|(_, _, options)| has(options))?;
    let group = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        has(controllers).then_some(path)
    })?;
    let dir = dir_of(root, point, group);
    is_writable(&dir).then_some(dir)
}

/// Returns the group of this process, and its parent if that was created for this process alone, as by systemd's
/// DelegateSubgroup: a group that contains processes cannot enable controllers for the groups below it.
fn v2_dirs(mounts: &str, groups: &str) -> Vec<PathBuf> {
    let find = || {
        let (root, point, _) = mounts_of(mounts, "cgroup2").next()?;
        let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        Some((Path::new(point), dir_of(root, point, group)))
    };
    let Some((point, own)) = find() else { return Vec::new() };
    let above = own.parent().filter(|above| own != point && is_for(above, &own)).map(Path::to_owned);
    [own].into_iter().chain(above).collect()
}

/// Returns whether a group contains only the group `own` and groups of jobs.
fn is_for(above: &Path, own: &Path) -> bool {
    let has_processes =
        std::fs::read_to_string(above.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty());
    let mut entries = std::fs::read_dir(above).into_iter().flatten().flatten();
    let is_ours = |entry: &std::fs::DirEntry| {
        entry.path() == own || entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX))
    };
    !has_processes && entries.all(|entry| !entry.path().is_dir() || is_ours(&entry))
}

fn is_writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Returns whether groups below `dir` get its controllers, after an attempt to enable them. A group with processes
/// cannot enable them, except for the root: the administrator has to do it then.
fn enables_controllers(dir: &Path) -> bool {
    let path = dir.join("cgroup.subtree_control");
    let has_all = || {
        let on = std::fs::read_to_string(&path).unwrap_or_default();
        CONTROLLERS.iter().all(|name| on.split_whitespace().any(|known| known == *name))
    };
    has_all()
        || (std::fs::write(&path, CONTROLLERS.map(|name| format!("+{name}")).join(" ")).is_ok() && has_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_this_process_are_found_in_version_1() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        for group in ["memory/a/b", "cpu,cpuacct"] {
            std::fs::create_dir_all(dir.path().join(group)).unwrap();
        }
        let mounts = format!(
            "30 25 0:26 / {at}/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n\
             31 25 0:27 /docker/x {at}/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             32 25 0:28 / /proc rw - proc proc rw\n"
        );
        let groups = "4:memory:/a/b\n3:cpu,cpuacct:/docker/x\n2:pids:/\n0::/\n";
        let found = Cgroups::of(&mounts, groups);
        let shared = Some(dir.path().join("cpu,cpuacct"));
        let expected = v1::Dirs {
            memory: Some(dir.path().join("memory/a/b")),
            cpu: shared.clone(),
            cpuacct: shared,
            pids: None,
        };
        assert_eq!(found.base, Some(Dirs::V1(expected)));
        assert_eq!(found.base().map_or(0, |dirs| dirs.all().len()), 2, "two controllers share a directory");
        assert_eq!(Cgroups::of("", "").base, None);
    }

    #[test]
    fn a_group_of_version_2_has_to_enable_its_controllers() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("user.slice/h");
        std::fs::create_dir_all(&own).unwrap();
        let mounts = format!("30 25 0:26 / {} rw - cgroup2 cgroup2 rw,nsdelegate\n", dir.path().display());
        let find = || Cgroups::of(&mounts, "0::/user.slice/h\n").base;
        assert_eq!(find(), None, "the file accepts the write but does not enable the controllers");
        std::fs::write(own.join("cgroup.subtree_control"), "cpu io memory pids\n").unwrap();
        assert_eq!(find(), Some(Dirs::V2(own)));
    }

    #[test]
    fn the_parent_group_is_used_if_it_is_for_this_process_alone() {
        let dir = tempfile::tempdir().unwrap();
        let above = dir.path().join("hodei.service");
        for group in ["daemon", "hodei-o.w.j.1"] {
            std::fs::create_dir_all(above.join(group)).unwrap();
        }
        std::fs::write(above.join("cgroup.procs"), "").unwrap();
        std::fs::write(above.join("cgroup.subtree_control"), "cpu memory pids\n").unwrap();
        let mounts = format!("30 25 0:26 / {} rw - cgroup2 cgroup2 rw\n", dir.path().display());
        let find = || Cgroups::of(&mounts, "0::/hodei.service/daemon\n").base;
        assert_eq!(find(), Some(Dirs::V2(above.clone())));
        std::fs::create_dir(above.join("other.service")).unwrap();
        assert_eq!(find(), None, "the parent contains another group");
        std::fs::remove_dir(above.join("other.service")).unwrap();
        std::fs::write(above.join("cgroup.procs"), "1\n").unwrap();
        assert_eq!(find(), None, "the parent contains processes");
    }
}
