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
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::process::Signal;

use super::{create, kill_in, remove, signal_in};
use crate::executor::host::marks::Marks;

/// Where such groups are made: beside that of jobs with limits, in a group of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::executor) enum Place {
    /// In the hierarchy that counts processes.
    V1(PathBuf),
    V2(PathBuf),
}

impl Place {
    pub(in crate::executor) fn dir(&self) -> &Path {
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

    /// The file of a group that says whether anything is in it.
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

    /// Reads what [`count`](Self::count) names.
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

/// Times that a thread tries to leave a group, a millisecond apart.
const LEAVE_TRIES: u32 = 20;
/// More than the file is long that says whether a group is empty.
const MAX_COUNT_BYTES: usize = 256;

/// A group with the two files of it that each job needs: to open them for each takes longer than to use them.
#[derive(Debug)]
struct Group {
    dir: PathBuf,
    threads: File,
    count: File,
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
    spares: Mutex<Vec<Group>>,
    /// Takes a thread back to the group of this process.
    home: OnceLock<File>,
    /// None can be made, or entered.
    is_off: AtomicBool,
}

impl KeptGroups {
    pub(in crate::executor) fn new(place: Option<Place>, marks: &Marks) -> Self {
        let (prefix, spares, home) = (marks.prefix().to_owned(), Mutex::default(), OnceLock::new());
        Self { inner: Arc::new(Inner { is_off: place.is_none().into(), place, prefix, spares, home }) }
    }

    /// A group that nothing is in; `None` where none can be made.
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
        // Of all executors of this process, which may have the same prefix.
        static MADE: AtomicU64 = AtomicU64::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let dir = place.dir().join(format!("{}kept-{}-{made}", self.prefix, std::process::id()));
        place.make(dir).inspect_err(|error| self.give_up(error)).ok()
    }

    /// The file that takes a thread back to the group of this process.
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
                "jobs without limits have no control groups: a process of one is found by its group, its parents and its \
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

/// A group that one job is in. Dropped, whatever is in it is killed, and the next job may have it.
#[derive(Debug)]
pub(crate) struct KeptGroup {
    /// Until it is dropped.
    group: Option<Group>,
    groups: KeptGroups,
    /// Nothing was in it after the start, and nothing enters it from then on.
    is_over: AtomicBool,
    /// Something had to be killed in it, which may have left groups below it: no other job is to have it.
    is_used_up: AtomicBool,
}

impl KeptGroup {
    /// Moves the calling thread into the group.
    ///
    /// # Errors
    /// When the system does not let it: from then on no groups are kept.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let inner = &self.groups.inner;
        // First, so that no thread goes where it cannot leave.
        let home = inner.home().map(|_| ());
        let threads = self.group.as_ref().map(|group| &group.threads).ok_or(io::ErrorKind::NotFound.into());
        home.and(threads).and_then(move_to).inspect_err(|error| inner.give_up(error))
    }

    /// Moves the calling thread back to where this process is.
    ///
    /// # Errors
    /// When the system does not let it: the thread should end, which leaves the group too.
    pub(crate) fn leave(&self) -> io::Result<()> {
        let inner = &self.groups.inner;
        let mut left = inner.home().and_then(move_to);
        for _ in 1..LEAVE_TRIES {
            if left.is_ok() {
                break;
            }
            // As when the system is short of memory.
            std::thread::sleep(Duration::from_millis(1));
            left = inner.home().and_then(move_to);
        }
        left.inspect_err(|error| inner.give_up(error))
    }

    /// Whether no process is in it: for after its job has started. A file that cannot be read is taken for that of a busy
    /// group.
    pub(crate) fn is_empty(&self) -> bool {
        if self.is_over.load(Ordering::Relaxed) {
            return true;
        }
        let (Some(group), Some(place)) = (&self.group, &self.groups.inner.place) else { return true };
        let is_empty = place.says_empty(&group.count);
        self.is_over.store(is_empty, Ordering::Relaxed);
        is_empty
    }

    /// Whether no other job is to have it: it is removed when dropped, which may take long.
    pub(in crate::executor) fn has_to_go(&self) -> bool {
        let is_off = self.groups.inner.is_off.load(Ordering::Relaxed);
        is_off || self.is_used_up.load(Ordering::Relaxed) || !self.is_empty()
    }

    /// Kills whatever is in it; returns how many there were.
    pub(in crate::executor) fn kill(&self) -> usize {
        match &self.group {
            Some(group) if !cfg!(hodei_break = "group_kill") && !self.is_empty() => {
                self.is_used_up.store(true, Ordering::Relaxed);
                kill_in(&group.dir)
            }
            _ => 0,
        }
    }

    /// Signals whatever is in it.
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
            // Something is still on its way out, or a thread could not leave.
            remove(&group.dir);
        }
    }
}

/// 0 is the thread that writes it.
fn move_to(threads: &File) -> io::Result<()> {
    threads.write_all_at(b"0", 0)
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

    fn dir_of(group: &KeptGroup) -> PathBuf {
        group.group.as_ref().unwrap().dir.clone()
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
        let dir = dir_of(&group);
        let Some(mut child) = start_in(&group, "env -i setsid -f sleep 1000") else { return false };
        child.wait().unwrap();
        assert!(!group.is_empty() && group.kill() >= 1, "what left its session and its parents is in it");
        drop(group);
        assert!(!dir.exists(), "one that something was in is not used again");
        let group = groups.take().unwrap();
        let second = dir_of(&group);
        start_in(&group, "true").unwrap().wait().unwrap();
        assert!(group.is_empty() && group.kill() == 0);
        drop(group);
        let group = groups.take().unwrap();
        assert_eq!(dir_of(&group), second, "an empty one is for the next job");
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
