//! Groups without limits, kept from job to job: whatever a job starts is in its group, so nothing of it is lost sight of.
//!
//! To have a process moved into a group, the kernel waits for all processors; a thread that moves itself waits for none,
//! and the processes that it starts are born in the group. So a thread of this process goes into a group, starts a job
//! there, and goes back. The group is used again once it is empty. Version 1: a group of the hierarchy that counts
//! processes. Version 2: a threaded group. See cgroups(7).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;

use super::{create, field, kill_in, number, remove, signal_in};
use crate::executor::tree::Marks;

/// Where such groups are made: beside that of jobs with limits, in a group of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In the hierarchy that counts processes.
    V1(PathBuf),
    V2(PathBuf),
}

impl Place {
    pub(super) fn dir(&self) -> &Path {
        let (Self::V1(dir) | Self::V2(dir)) = self;
        dir
    }

    /// The file of a group that takes a thread.
    fn threads(&self, group: &Path) -> PathBuf {
        group.join(match self {
            Self::V1(_) => "tasks",
            Self::V2(_) => "cgroup.threads",
        })
    }

    fn make(&self, group: &Path) -> io::Result<()> {
        create(group)?;
        if let Self::V2(_) = self {
            std::fs::write(group.join("cgroup.type"), "threaded").inspect_err(|_| remove(group))?;
        }
        Ok(())
    }

    /// Whether nothing is in a group. What cannot be read is taken for something.
    fn is_empty(&self, group: &Path) -> bool {
        let count = match self {
            Self::V1(_) => number(&group.join("pids.current")),
            Self::V2(_) => field(&group.join("cgroup.events"), "populated"),
        };
        count == Some(0)
    }
}

/// The groups that an executor keeps, as many as it ran jobs at once. All clones are the same; with the last one, and the
/// last group that is in use, they are gone.
#[derive(Debug, Clone)]
pub(crate) struct KeptGroups {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    place: Option<Place>,
    /// What their names begin with.
    prefix: String,
    spares: Mutex<Vec<PathBuf>>,
    /// None can be made, or entered.
    is_off: AtomicBool,
}

impl KeptGroups {
    pub(super) fn new(place: Option<Place>, marks: &Marks) -> Self {
        let (prefix, spares) = (marks.prefix().to_owned(), Mutex::default());
        Self { inner: Arc::new(Inner { is_off: place.is_none().into(), place, prefix, spares }) }
    }

    /// A group that nothing is in; `None` where none can be made.
    pub(crate) fn take(&self) -> Option<KeptGroup> {
        let place = self.inner.place.clone().filter(|_| !self.inner.is_off.load(Ordering::Relaxed))?;
        let spare = self.inner.spares().pop();
        let dir = match spare {
            Some(dir) => dir,
            None => self.inner.make(&place)?,
        };
        Some(KeptGroup { dir, place, groups: self.clone() })
    }
}

impl Inner {
    fn spares(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, place: &Place) -> Option<PathBuf> {
        // Of all executors of this process, which may have the same prefix.
        static MADE: AtomicU64 = AtomicU64::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let dir = place.dir().join(format!("{}kept-{}-{made}", self.prefix, std::process::id()));
        place.make(&dir).inspect_err(|error| self.give_up(error)).ok()?;
        Some(dir)
    }

    fn give_up(&self, error: &io::Error) {
        if !self.is_off.swap(true, Ordering::Relaxed) {
            tracing::info!(
                %error,
                "jobs without limits have no control groups: a process of one is found by its group, its parents and its \
                 environment"
            );
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.spares().drain(..).for_each(|dir| remove(&dir));
    }
}

/// A group that one job is in. Dropped, whatever is in it is killed, and the next job may have it.
#[derive(Debug)]
pub(crate) struct KeptGroup {
    dir: PathBuf,
    place: Place,
    groups: KeptGroups,
}

impl KeptGroup {
    /// Moves the calling thread into the group.
    ///
    /// # Errors
    /// When the system does not let it: from then on no groups are kept.
    pub(crate) fn enter(&self) -> io::Result<()> {
        move_to(&self.place.threads(&self.dir)).inspect_err(|error| self.groups.inner.give_up(error))
    }

    /// Moves the calling thread back to where this process is.
    ///
    /// # Errors
    /// When the system does not let it: the thread should end, which leaves the group too.
    pub(crate) fn leave(&self) -> io::Result<()> {
        move_to(&self.place.threads(self.place.dir())).inspect_err(|error| self.groups.inner.give_up(error))
    }

    /// Whether no process is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.place.is_empty(&self.dir)
    }

    /// Kills whatever is in it; returns how many there were.
    pub(super) fn kill(&self) -> usize {
        if cfg!(hodei_break = "group_kill") || self.is_empty() { 0 } else { kill_in(&self.dir) }
    }

    /// Signals whatever is in it.
    pub(super) fn signal(&self, signal: Signal) {
        signal_in(&self.dir, signal);
    }
}

impl Drop for KeptGroup {
    fn drop(&mut self) {
        if self.is_empty() && !self.groups.inner.is_off.load(Ordering::Relaxed) {
            self.groups.inner.spares().push(std::mem::take(&mut self.dir));
        } else if !cfg!(hodei_break = "group_kill") {
            // Something is still on its way out, or a thread could not leave.
            remove(&self.dir);
        }
    }
}

/// 0 is the thread that writes it.
fn move_to(file: &Path) -> io::Result<()> {
    File::options().write(true).open(file)?.write_all_at(b"0", 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use hodei_core::id::{StoreId, WorkerId};
    use uuid::Uuid;

    use super::*;

    fn groups(place: Place) -> KeptGroups {
        let id = Uuid::from_u128(u128::from(std::process::id()));
        let marks = Marks::new(StoreId::from_uuid(id), "tests of kept groups", WorkerId::from_uuid(id));
        KeptGroups::new(Some(place), &marks)
    }

    /// Starts a program in a group, by a thread that goes there.
    fn start_in(group: &KeptGroup, line: &str) -> Option<Child> {
        let start = || {
            group.enter().ok()?;
            let child = Command::new("/bin/sh").args(["-c", line]).spawn();
            group.leave().unwrap();
            Some(child.unwrap())
        };
        std::thread::scope(|scope| scope.spawn(start).join().unwrap())
    }

    /// Whether groups can be kept there at all.
    fn holds_what_it_starts(place: Place) -> bool {
        let groups = groups(place.clone());
        let Some(group) = groups.take() else { return false };
        let dir = group.dir.clone();
        let Some(mut child) = start_in(&group, "env -i setsid -f sleep 1000") else { return false };
        child.wait().unwrap();
        assert!(!group.is_empty() && group.kill() >= 1, "what left its session and its parents is in it");
        drop(group);
        assert!(!dir.exists(), "one that something was in is not used again");
        let group = groups.take().unwrap();
        let second = group.dir.clone();
        start_in(&group, "true").unwrap().wait().unwrap();
        assert!(group.is_empty() && group.kill() == 0);
        drop(group);
        let group = groups.take().unwrap();
        assert_eq!(group.dir, second, "an empty one is for the next job");
        // This process lives on, though a thread of it is there.
        std::thread::scope(|scope| {
            let stay = || {
                group.enter().unwrap();
                assert_eq!((kill_in(&second), group.is_empty()), (0, false));
                group.leave().unwrap();
            };
            scope.spawn(stay).join().unwrap();
        });
        drop(group);
        drop(groups);
        assert!(!second.exists(), "they go with the last who keeps them");
        true
    }

    #[test]
    fn a_kept_group_has_all_that_was_started_in_it() {
        let places = [
            Place::V1("/sys/fs/cgroup/pids".into()),
            Place::V2("/sys/fs/cgroup/unified".into()),
            Place::V2("/sys/fs/cgroup".into()),
        ];
        let is_v2 = |place: &Place| place.dir().join("cgroup.controllers").exists();
        let is_there = |place: &Place| match place {
            Place::V1(dir) => dir.join("tasks").exists(),
            Place::V2(_) => is_v2(place),
        };
        let held =
            places.into_iter().filter(is_there).filter(|place| holds_what_it_starts(place.clone())).count();
        if held == 0 {
            let required = std::env::var("HODEI_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.contains("cgroups"), "no control groups can be made here");
            eprintln!("skipped: no control groups can be made here");
        }
    }

    #[test]
    fn where_none_can_be_made_none_is_asked_for_again() {
        let groups = groups(Place::V1("/nowhere".into()));
        assert!(groups.take().is_none() && groups.inner.is_off.load(Ordering::Relaxed));
        assert!(groups.take().is_none());
    }
}
