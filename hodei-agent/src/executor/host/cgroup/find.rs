//! Which control groups this machine has, and where this process may make some.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::kept::{KeptGroups, Place};
use super::{Dirs, v1};
use crate::executor::host::marks::Marks;
use crate::executor::host::names::PREFIX;

/// Where groups of jobs are made: below that of this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cgroups {
    /// For jobs with limits.
    base: Option<Dirs>,
    /// For those without.
    kept: Option<Place>,
}

/// What a group needs of version 2, as the group above it must hand it on.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

impl Cgroups {
    /// Looks at what this process is in. None where it may make none.
    pub(crate) fn find() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self::of(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    /// By the texts of proc_pid_mountinfo(5) and cgroups(7).
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
        let v2 = v2.into_iter().find(|dir| is_writable(dir) && hands_on(dir));
        Self { base: v2.map(Dirs::V2), kept }
    }

    /// The groups that an executor keeps for jobs without limits.
    pub(in crate::executor) fn kept(&self, marks: &Marks) -> KeptGroups {
        KeptGroups::new(self.kept.clone(), marks)
    }

    /// Every directory that groups of jobs may be in.
    pub(in crate::executor) fn places(&self) -> BTreeSet<&Path> {
        let limited = self.base.iter().flat_map(Dirs::all);
        limited.chain(self.kept.as_ref().map(Place::dir)).collect()
    }

    /// Whether there is such a place.
    pub(crate) fn is_there(&self) -> bool {
        self.base.is_some()
    }

    pub(super) fn base(&self) -> Option<&Dirs> {
        self.base.as_ref()
    }
}

/// Where a file system of control groups is mounted, the part of it that is, and its options.
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

/// A group as a directory: what of its path is below the mounted part.
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

/// The group of this process, and the one above when that was made for it alone, as systemd's DelegateSubgroup does:
/// with processes in it, a group has no use for controllers below it.
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

/// Whether a group has nothing but this one in it, and those of jobs.
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

/// Whether groups below one get its controllers. One with processes in it cannot hand them on, but for the root: then
/// whoever set this machine up has to.
fn hands_on(dir: &Path) -> bool {
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
    fn the_groups_of_this_process_are_read_by_the_manual() {
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
    fn a_group_of_version_2_has_to_hand_its_controllers_on() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("user.slice/h");
        std::fs::create_dir_all(&own).unwrap();
        let mounts = format!("30 25 0:26 / {} rw - cgroup2 cgroup2 rw,nsdelegate\n", dir.path().display());
        let find = || Cgroups::of(&mounts, "0::/user.slice/h\n").base;
        assert_eq!(find(), None, "the file takes what is written, and says that nothing came of it");
        std::fs::write(own.join("cgroup.subtree_control"), "cpu io memory pids\n").unwrap();
        assert_eq!(find(), Some(Dirs::V2(own)));
    }

    #[test]
    fn the_group_above_is_taken_when_it_is_there_for_this_process_alone() {
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
        assert_eq!(find(), None, "others live there");
        std::fs::remove_dir(above.join("other.service")).unwrap();
        std::fs::write(above.join("cgroup.procs"), "1\n").unwrap();
        assert_eq!(find(), None, "it has processes");
    }
}
