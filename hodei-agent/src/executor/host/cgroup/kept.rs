//! Groups without limits, reused from job to job: every process that a job starts is in its group and can be found
//! there.
//!
//! When a process is moved into a group, the kernel waits for all processors. A thread that moves itself waits for
//! none, and the processes that it starts are born in the group. So a thread of this process enters a group, starts a
//! job there, and leaves it. The group is reused once it is empty. Version 1: a group of the hierarchy that counts
//! processes. Version 2: a threaded group. See cgroups(7).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::process::Signal;

use super::{create, kill_in, remove, signal_in};
use crate::executor::host::marks::Marks;

/// The directory in which such groups are created: a group of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::executor) enum Place {
    /// In the pids hierarchy.
    V1(PathBuf),
    V2(PathBuf),
}

impl Place {
    pub(in crate::executor) fn dir(&self) -> &Path {
        let (Self::V1(dir) | Self::V2(dir)) = self;
        dir
    }

    /// Returns the file of a group that moves a thread into it.
    fn threads(&self, group: &Path) -> PathBuf {
        group.join(match self {
            Self::V1(_) => "tasks",
            Self::V2(_) => "cgroup.threads",
        })
    }

    /// Returns the file of a group that says whether it has processes.
    fn count(&self, group: &Path) -> PathBuf {
        group.join(match self {
            Self::V1(_) => "pids.current",
            Self::V2(_) => "cgroup.events",
        })
    }

    fn make(&self, dir: PathBuf) -> io::Result<Group> {
        create(&dir)?;
        let open = || -> io::Result<_> {
            if let Self::V2(_) = self {
                std::fs::write(dir.join("cgroup.type"), "threaded")?;
            }
            let threads = File::options().write(true).open(self.threads(&dir))?;
            Ok((threads, File::open(self.count(&dir))?))
        };
        let (threads, count) = open().inspect_err(|_| remove(&dir))?;
        Ok(Group { dir, threads, count })
    }

    /// Reads the file of [`count`](Self::count).
    fn says_empty(&self, count: &File) -> bool {
        let mut bytes = [0; MAX_COUNT_BYTES];
        let Ok(length) = count.read_at(&mut bytes, 0) else { return false };
        let text = std::str::from_utf8(&bytes[..length]).unwrap_or_default();
        match self {
            Self::V1(_) => text.trim_end() == "0",
            Self::V2(_) => text.lines().any(|line| line == "populated 0"),
        }
    }
}

/// Maximum number of times that a thread tries to leave a group, one millisecond apart.
const MAX_LEAVE_TRIES: u32 = 20;
/// Upper bound of the length of the file that says whether a group is empty.
const MAX_COUNT_BYTES: usize = 256;

/// A group with open handles of the two files that each job needs: opening them takes longer than using them.
#[derive(Debug)]
struct Group {
    dir: PathBuf,
    threads: File,
    count: File,
}

/// The groups that an executor keeps, as many as it ran jobs at once. All clones share them. They are removed with the
/// last clone and the last group in use.
#[derive(Debug, Clone)]
pub(crate) struct KeptGroupPool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    place: Option<Place>,
    /// The prefix of their names.
    prefix: String,
    spares: Mutex<Vec<Group>>,
    /// The file that moves a thread back into the group of this process.
    home: OnceLock<File>,
    /// Whether creating or entering a group has failed.
    is_off: AtomicBool,
}

impl KeptGroupPool {
    pub(in crate::executor) fn new(place: Option<Place>, marks: &Marks) -> Self {
        let (prefix, spares, home) = (marks.prefix().to_owned(), Mutex::default(), OnceLock::new());
        Self { inner: Arc::new(Inner { is_off: place.is_none().into(), place, prefix, spares, home }) }
    }

    /// Returns an empty group; `None` if none can be created.
    pub(crate) fn take(&self) -> Option<KeptGroup> {
        let place = self.inner.place.as_ref().filter(|_| !self.inner.is_off.load(Ordering::Relaxed))?;
        let spare = self.inner.spares().pop();
        let group = match spare {
            Some(group) => group,
            None => self.inner.make(place)?,
        };
        let (is_over, is_used_up) = (AtomicBool::new(false), AtomicBool::new(false));
        Some(KeptGroup { group: Some(group), groups: self.clone(), is_over, is_used_up })
    }
}

impl Inner {
    fn spares(&self) -> MutexGuard<'_, Vec<Group>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, place: &Place) -> Option<Group> {
        // Shared by all executors of this process, which may have the same prefix.
        static MADE: AtomicU64 = AtomicU64::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let dir = place.dir().join(format!("{}kept-{}-{made}", self.prefix, std::process::id()));
        place.make(dir).inspect_err(|error| self.give_up(error)).ok()
    }

    /// Returns the file that moves a thread back into the group of this process.
    fn home(&self) -> io::Result<&File> {
        if let Some(home) = self.home.get() {
            return Ok(home);
        }
        let place = self.place.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let home = File::options().write(true).open(place.threads(place.dir()))?;
        Ok(self.home.get_or_init(|| home))
    }

    fn give_up(&self, error: &io::Error) {
        if !self.is_off.swap(true, Ordering::Relaxed) {
            tracing::info!(
                %error,
                "jobs without limits have no control groups: their processes are found by process group, parent and \
                 environment"
            );
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.spares().drain(..).for_each(|group| remove(&group.dir));
    }
}

/// The group of one job. When it is dropped, its processes are killed and the next job may reuse it.
#[derive(Debug)]
pub(crate) struct KeptGroup {
    /// `None` once it is dropped.
    group: Option<Group>,
    groups: KeptGroupPool,
    /// Whether it was empty after the start of its job: no process enters it from then on.
    is_over: AtomicBool,
    /// Whether processes had to be killed in it. They may have left groups below it, so no other job may reuse it.
    is_used_up: AtomicBool,
}

impl KeptGroup {
    /// Moves the calling thread into the group.
    ///
    /// # Errors
    /// If the system refuses: no groups are used from then on.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let inner = &self.groups.inner;
        // First, so that no thread enters a group that it cannot leave.
        let home = inner.home().map(|_| ());
        let threads = self.group.as_ref().map(|group| &group.threads).ok_or(io::ErrorKind::NotFound.into());
        home.and(threads).and_then(move_to).inspect_err(|error| inner.give_up(error))
    }

    /// Moves the calling thread back into the group of this process.
    ///
    /// # Errors
    /// If the system refuses: the thread should end, which leaves the group too.
    pub(crate) fn leave(&self) -> io::Result<()> {
        let inner = &self.groups.inner;
        let mut left = inner.home().and_then(move_to);
        for _ in 1..MAX_LEAVE_TRIES {
            if left.is_ok() {
                break;
            }
            // The system may be short of memory.
            std::thread::sleep(Duration::from_millis(1));
            left = inner.home().and_then(move_to);
        }
        left.inspect_err(|error| inner.give_up(error))
    }

    /// Returns whether it has no process. To be called after its job has started. Returns false if the file cannot be
    /// read.
    pub(crate) fn is_empty(&self) -> bool {
        if self.is_over.load(Ordering::Relaxed) {
            return true;
        }
        let (Some(group), Some(place)) = (&self.group, &self.groups.inner.place) else { return true };
        let is_empty = place.says_empty(&group.count);
        self.is_over.store(is_empty, Ordering::Relaxed);
        is_empty
    }

    /// Returns whether no other job may reuse it: it is removed when dropped, which may take long.
    pub(in crate::executor) fn has_to_go(&self) -> bool {
        let is_off = self.groups.inner.is_off.load(Ordering::Relaxed);
        is_off || self.is_used_up.load(Ordering::Relaxed) || !self.is_empty()
    }

    /// Kills the processes in it. Returns how many there were.
    pub(in crate::executor) fn kill(&self) -> usize {
        match &self.group {
            Some(group) if !cfg!(hodei_break = "group_kill") && !self.is_empty() => {
                self.is_used_up.store(true, Ordering::Relaxed);
                kill_in(&group.dir)
            }
            _ => 0,
        }
    }

    /// Signals the processes in it.
    pub(in crate::executor) fn signal(&self, signal: Signal) {
        self.group.iter().for_each(|group| signal_in(&group.dir, signal));
    }
}

impl Drop for KeptGroup {
    fn drop(&mut self) {
        let (has_to_go, inner) = (self.has_to_go(), &self.groups.inner);
        let Some(group) = self.group.take() else { return };
        if !has_to_go {
            inner.spares().push(group);
        } else if !cfg!(hodei_break = "group_kill") {
            // A process is still ending, or a thread could not leave.
            remove(&group.dir);
        }
    }
}

/// Moves the calling thread: 0 means the thread that writes it.
fn move_to(threads: &File) -> io::Result<()> {
    threads.write_all_at(b"0", 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use hodei_core::id::{StoreId, WorkerId};
    use uuid::Uuid;

    use super::*;

    fn groups(place: Place) -> KeptGroupPool {
        let id = Uuid::from_u128(u128::from(std::process::id()));
        let marks = Marks::new(StoreId::from_uuid(id), "tests of kept groups", WorkerId::from_uuid(id));
        KeptGroupPool::new(Some(place), &marks)
    }

    fn dir_of(group: &KeptGroup) -> PathBuf {
        group.group.as_ref().unwrap().dir.clone()
    }

    /// Starts a program in a group, from a thread that enters it.
    fn start_in(group: &KeptGroup, line: &str) -> Option<Child> {
        let start = || {
            group.enter().ok()?;
            let child = Command::new("/bin/sh").args(["-c", line]).spawn();
            group.leave().unwrap();
            Some(child.unwrap())
        };
        std::thread::scope(|scope| scope.spawn(start).join().unwrap())
    }

    /// Checks a place. Returns false if no groups can be created there.
    fn contains_its_processes(place: Place) -> bool {
        let groups = groups(place.clone());
        let Some(group) = groups.take() else { return false };
        let dir = dir_of(&group);
        let Some(mut child) = start_in(&group, "env -i setsid -f sleep 1000") else { return false };
        child.wait().unwrap();
        assert!(
            !group.is_empty() && group.kill() >= 1,
            "a process that left its session and its parents is in it"
        );
        drop(group);
        assert!(!dir.exists(), "a group with killed processes is not reused");
        let group = groups.take().unwrap();
        let second = dir_of(&group);
        start_in(&group, "true").unwrap().wait().unwrap();
        assert!(group.is_empty() && group.kill() == 0);
        drop(group);
        let group = groups.take().unwrap();
        assert_eq!(dir_of(&group), second, "an empty group is reused");
        // A kill spares this process although a thread of it is in the group.
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
        assert!(!second.exists(), "the groups are removed with the last clone");
        true
    }

    #[test]
    fn a_kept_group_contains_every_process_started_in_it() {
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
            places.into_iter().filter(is_there).filter(|place| contains_its_processes(place.clone())).count();
        if held == 0 {
            let required = std::env::var("HODEI_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.contains("cgroups"), "no control groups can be made here");
            eprintln!("skipped: no control groups can be made here");
        }
    }

    #[test]
    fn groups_are_not_tried_again_after_a_failure() {
        let groups = groups(Place::V1("/nowhere".into()));
        assert!(groups.take().is_none() && groups.inner.is_off.load(Ordering::Relaxed));
        assert!(groups.take().is_none());
    }
}
