//! Removes a directory with all that is in it, however deep, wide and oddly made a job left it.
//!
//! A loop over descriptors: no recursion, no path longer than a name, no link followed, no mount entered. Directories that
//! lie deeper than [`MAX_OPEN_DIRS`] are moved to the top first, so that neither stack, descriptors nor memory grow with
//! the depth.

use std::ffi::{CStr, CString, OsStr};
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags, ResolveFlags};
use rustix::fs::{fchmod, fstat, openat, openat2, renameat, unlinkat};
use rustix::io::Errno;

use crate::executor::host::mounts;

/// Directories of one tree that are open at once.
const MAX_OPEN_DIRS: usize = 32;
/// Times that a directory is read which a living process goes on filling.
const MAX_PASSES: u32 = 8;
/// Entries of one tree that are looked at: a process that fills it faster than it is emptied holds its removal up no longer.
const MAX_ENTRIES: u64 = 100_000_000;
/// Warnings about one tree; the last says how many more there would be.
const MAX_WARNINGS: u64 = 10;
/// Names at the top that are tried for a directory from below: the job may have taken some.
const MAX_NAMES_TRIED: u32 = 1000;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes a directory, or what was put in its place. Links are removed and never followed; what a job mounted is taken
/// off and left as it is; rights and flags that the job set are no obstacle where this user may change them. What cannot
/// be removed stays, with a warning that names it, and the rest is removed.
pub(in crate::executor) fn remove_tree(dir: &Path) {
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {}
        _ => return,
    }
    let mut removal =
        Removal { dir, levels: Vec::new(), moved_up: Vec::new(), numbers: 0, looked: 0, left: 0 };
    if let Err(error) = removal.run() {
        removal.warn(None, &error);
    }
    if removal.left > MAX_WARNINGS {
        let more = removal.left - MAX_WARNINGS;
        tracing::warn!(dir = %dir.display(), more, "more of the files of a job cannot be removed");
    }
}

struct Removal<'a> {
    dir: &'a Path,
    /// From the directory itself down to the one that is being emptied.
    levels: Vec<Level>,
    /// Directories at the top that came from below, by the numbers in their names.
    moved_up: Vec<u64>,
    /// How many numbers were given.
    numbers: u64,
    looked: u64,
    /// What could not be removed.
    left: u64,
}

/// A directory that is being emptied.
struct Level {
    name: CString,
    entries: Dir,
    passes: u32,
    /// Something in it could not be removed.
    is_kept: bool,
}

impl Level {
    /// Opens a directory, in whatever state it is.
    fn open(at: BorrowedFd<'_>, name: &CStr) -> io::Result<Self> {
        let dir = match open_here(at, name) {
            Err(Errno::XDEV) => {
                mounts::unmount_all(at, name)?;
                open_here(at, name)?
            }
            Err(Errno::ACCESS) => {
                give_rights(at, name)?;
                open_here(at, name)?
            }
            opened => opened?,
        };
        if !Mode::from_raw_mode(fstat(&dir)?.st_mode).contains(Mode::RWXU) {
            // Where that cannot be done, its entries say so.
            let _ = fchmod(&dir, Mode::RWXU);
        }
        Ok(Self { name: name.to_owned(), entries: Dir::new(dir)?, passes: 1, is_kept: false })
    }

    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        Ok(self.entries.fd()?)
    }
}

impl Removal<'_> {
    fn run(&mut self) -> io::Result<()> {
        let (Some(parent), Some(name)) = (self.dir.parent(), self.dir.file_name()) else {
            return Err(io::Error::other("it is the root of a file system"));
        };
        let name = CString::new(name.as_bytes())?;
        let parent =
            rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        match remove_one(parent.as_fd(), &name, true) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => self.levels.push(Level::open(parent.as_fd(), &name)?),
            // Something else is in its place.
            Err(Errno::NOTDIR) => return Ok(remove_one(parent.as_fd(), &name, false)?),
            removed => return Ok(removed?),
        }
        while !self.levels.is_empty() {
            match self.next_entry()? {
                Some((name, is_dir)) => self.remove_entry(&name, is_dir)?,
                None if self.levels.len() == 1 && !self.moved_up.is_empty() => self.enter_moved_up()?,
                None => self.leave(parent.as_fd())?,
            }
        }
        Ok(())
    }

    /// Reads on in the lowest directory; `None` at its end.
    fn next_entry(&mut self) -> io::Result<Option<(CString, bool)>> {
        let Some(level) = self.levels.last_mut() else { return Ok(None) };
        for entry in level.entries.by_ref() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    level.is_kept = true;
                    self.warn(None, &error);
                    return Ok(None);
                }
            };
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                self.looked += 1;
                if self.looked > MAX_ENTRIES {
                    return Err(io::Error::other("a process goes on filling it"));
                }
                return Ok(Some((entry.file_name().to_owned(), entry.file_type() == FileType::Directory)));
            }
        }
        Ok(None)
    }

    fn remove_entry(&mut self, name: &CStr, is_dir: bool) -> io::Result<()> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        let at = level.fd()?;
        let removed = match remove_one(at, name, is_dir) {
            // Where directories do not say what is in them.
            Err(Errno::ISDIR) if !is_dir => remove_one(at, name, true),
            removed => removed,
        };
        let entered = match removed {
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.levels.len() < MAX_OPEN_DIRS => {
                Level::open(at, name).map(|below| self.levels.push(below))
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => self.move_up(name),
            removed => removed.map_err(io::Error::from),
        };
        if let Err(error) = entered.or_else(unless_changed) {
            self.keep(Some(name), &error);
        }
        Ok(())
    }

    /// Moves a directory that lies too deep to the top.
    fn move_up(&mut self, name: &CStr) -> io::Result<()> {
        let (Some(top), Some(level)) = (self.levels.first(), self.levels.last()) else { return Ok(()) };
        let (top, at) = (top.fd()?, level.fd()?);
        for _ in 0..MAX_NAMES_TRIED {
            let number = self.numbers;
            let moved = match renameat(at, name, top, moved_up_name(number)) {
                Err(Errno::ACCESS | Errno::PERM) => {
                    remove_obstacles(at, name);
                    renameat(at, name, top, moved_up_name(number))
                }
                moved => moved,
            };
            self.numbers += 1;
            match moved {
                // The job has something of that name.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                moved => {
                    moved?;
                    self.moved_up.push(number);
                    return Ok(());
                }
            }
        }
        Err(io::Error::other("it lies too deep, and each name for it at the top is taken"))
    }

    fn enter_moved_up(&mut self) -> io::Result<()> {
        let (Some(number), Some(top)) = (self.moved_up.pop(), self.levels.first()) else { return Ok(()) };
        let name = CString::new(moved_up_name(number))?;
        match Level::open(top.fd()?, &name) {
            Ok(level) => self.levels.push(level),
            Err(error) => {
                if let Err(error) = unless_changed(error) {
                    self.keep(Some(&name), &error);
                }
            }
        }
        Ok(())
    }

    /// Removes the lowest directory, which was read to its end.
    fn leave(&mut self, parent: BorrowedFd<'_>) -> io::Result<()> {
        let Some(mut level) = self.levels.pop() else { return Ok(()) };
        let at = self.levels.last().map_or(Ok(parent), Level::fd)?;
        let removed = if level.is_kept { Ok(()) } else { remove_one(at, &level.name, true) };
        match removed {
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.passes < MAX_PASSES => {
                level.passes += 1;
                level.entries.rewind();
                self.levels.push(level);
            }
            Err(error) => {
                if let Err(error) = unless_changed(error.into()) {
                    self.keep(Some(&level.name), &error);
                }
            }
            Ok(()) => {
                if let Some(above) = self.levels.last_mut().filter(|_| level.is_kept) {
                    above.is_kept = true;
                }
            }
        }
        Ok(())
    }

    /// Leaves something in the lowest directory, which stays with it.
    fn keep(&mut self, name: Option<&CStr>, error: &io::Error) {
        self.warn(name, error);
        if let Some(level) = self.levels.last_mut() {
            level.is_kept = true;
        }
    }

    fn warn(&mut self, name: Option<&CStr>, error: &dyn Display) {
        self.left += 1;
        if self.left <= MAX_WARNINGS {
            let below = self.levels.iter().skip(1).map(|level| &*level.name).chain(name);
            let below = below.map(|name| OsStr::from_bytes(name.to_bytes()));
            // The directory itself has no level before it is open, and is named by that of its own after.
            let below = below.filter(|name| !self.levels.is_empty() || Some(*name) != self.dir.file_name());
            let path: PathBuf = [self.dir.as_os_str()].into_iter().chain(below).collect();
            tracing::warn!(path = %path.display(), %error, "a file of a job cannot be removed");
        }
    }
}

fn moved_up_name(number: u64) -> String {
    format!(".hodei-from-below-{number}")
}

/// A directory that became something else, or nothing, since it was read is no failure: the next pass sees what it is.
fn unless_changed(error: io::Error) -> io::Result<()> {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        _ => Err(error),
    }
}

/// Removes a file or an empty directory, after whatever keeps it from being removed.
fn remove_one(at: BorrowedFd<'_>, name: &CStr, is_dir: bool) -> Result<(), Errno> {
    let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    let removed = match unlinkat(at, name, flags) {
        Err(Errno::BUSY) => match mounts::unmount_all(at, name) {
            Ok(()) => unlinkat(at, name, flags),
            Err(_) => Err(Errno::BUSY),
        },
        Err(Errno::ACCESS | Errno::PERM) => {
            remove_obstacles(at, name);
            unlinkat(at, name, flags)
        }
        removed => removed,
    };
    match removed {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Opens a directory of the same mount.
fn open_here(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let same_mount = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    match openat2(at, name, DIRECTORY, Mode::empty(), same_mount) {
        // Before Linux 5.6, or in a container that knows no such call.
        Err(Errno::NOSYS | Errno::PERM) => open_here_by_id(at, name),
        opened => opened,
    }
}

fn open_here_by_id(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let dir = openat(at, name, DIRECTORY, Mode::empty())?;
    match (mounts::id_of(at), mounts::id_of(dir.as_fd())) {
        (Some(here), Some(there)) if here == there => Ok(dir),
        _ => Err(Errno::XDEV),
    }
}

/// Takes from a file and the directory that it is in what forbids its removal, as far as this user may: an immutable or
/// append-only flag. A file with other names may be somebody's elsewhere, and keeps its own.
fn remove_obstacles(at: BorrowedFd<'_>, name: &CStr) {
    let _ = remove_flags(at, c".");
    let _ = remove_flags(at, name);
    let _ = give_rights(at, name);
}

fn remove_flags(at: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let handle = openat(at, name, HANDLE, Mode::empty())?;
    let about = fstat(&handle)?;
    match FileType::from_raw_mode(about.st_mode) {
        FileType::Directory => {}
        FileType::RegularFile if about.st_nlink <= 1 => {}
        _ => return Ok(()),
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path_of(&handle), flags, Mode::empty())?;
    let set = rustix::fs::ioctl_getflags(&file)?;
    let forbidding = IFlags::IMMUTABLE | IFlags::APPEND;
    if set.intersects(forbidding) { rustix::fs::ioctl_setflags(&file, set - forbidding) } else { Ok(()) }
}

/// Gives this user all rights to a directory, and never to what a link leads to.
fn give_rights(at: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let handle = openat(at, name, HANDLE | OFlags::DIRECTORY, Mode::empty())?;
    rustix::fs::chmod(path_of(&handle), Mode::RWXU)
}

/// A path that means an open file, whatever becomes of its name.
fn path_of(handle: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use rustix::fs::mkdirat;
    use rustix::mount::{MountFlags, mount, mount_bind};

    use super::*;

    /// A directory in another that is kept, so that the removal is of the first.
    fn tree() -> (tempfile::TempDir, PathBuf) {
        // On a disk 20,000 directories may take a minute.
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let base = base.unwrap();
        let dir = base.path().join("workspace");
        std::fs::create_dir(&dir).unwrap();
        (base, dir)
    }

    fn go(at: &OwnedFd, name: &str) -> OwnedFd {
        mkdirat(at, name, Mode::RWXU).unwrap();
        openat(at, name, DIRECTORY, Mode::empty()).unwrap()
    }

    fn nest(dir: &Path, depth: usize, name: &str) -> OwnedFd {
        let start = rustix::fs::open(dir, DIRECTORY, Mode::empty()).unwrap();
        (0..depth).fold(start, |at, _| go(&at, name))
    }

    fn touch(at: &OwnedFd, name: &str) {
        openat(at, name, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    }

    /// False where the file system has no such flags, or this user may not set them.
    fn forbid(file: &OwnedFd, flag: IFlags) -> bool {
        let is_set = rustix::fs::ioctl_setflags(file, flag).is_ok();
        if !is_set {
            eprintln!("skipped: no file can be made immutable here");
        }
        is_set
    }

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        for (depth, name) in [(1, "d"), (MAX_OPEN_DIRS, "d"), (20_000, "d"), (1000, &"n".repeat(255)[..])] {
            let (base, dir) = tree();
            let lowest = nest(&dir, depth, name);
            touch(&lowest, "file");
            // Names that it would give to what it moves to the top.
            for number in [0, 1, 3] {
                std::fs::write(dir.join(moved_up_name(number)), "").unwrap();
            }
            remove_tree(&dir);
            assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0, "{depth}");
        }
    }

    #[test]
    fn a_deep_tree_with_branches_at_each_level_is_removed() {
        let (base, dir) = tree();
        let start = rustix::fs::open(&dir, DIRECTORY, Mode::empty()).unwrap();
        (0..500).fold(start, |at, _| {
            for branch in ["a", "c"] {
                touch(&go(&go(&at, branch), "below"), "file");
            }
            go(&at, "b")
        });
        remove_tree(&dir);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn odd_names_kinds_and_rights_are_removed_and_what_links_lead_to_stays() {
        let (base, dir) = tree();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("precious"), "precious").unwrap();
        let top = rustix::fs::open(&dir, DIRECTORY, Mode::empty()).unwrap();
        for name in [&b"\xff\xfe"[..], b"new\nline", b" ", b"-rf", b"...", &[b'x'; 255]] {
            std::fs::write(dir.join(std::ffi::OsString::from_vec(name.to_vec())), "").unwrap();
        }
        for (name, kind) in [("pipe", FileType::Fifo), ("socket", FileType::Socket)] {
            rustix::fs::mknodat(&top, name, kind, Mode::RUSR, 0).unwrap();
        }
        std::os::unix::fs::symlink(elsewhere.path(), dir.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.join("dangling")).unwrap();
        for mode in [0, 0o400, 0o500] {
            let closed = go(&top, &format!("closed-{mode:o}"));
            touch(&go(&closed, "below"), "file");
            fchmod(&closed, Mode::from_raw_mode(mode)).unwrap();
        }
        remove_tree(&dir);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
        assert!(elsewhere.path().join("precious").exists());
        // In the place of the directory itself.
        std::os::unix::fs::symlink(elsewhere.path(), &dir).unwrap();
        remove_tree(&dir);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
        assert!(elsewhere.path().join("precious").exists());
        remove_tree(&dir);
    }

    #[test]
    fn many_entries_are_removed() {
        let (base, dir) = tree();
        let top = rustix::fs::open(&dir, DIRECTORY, Mode::empty()).unwrap();
        for number in 0..5_000 {
            touch(&top, &format!("file-{number}"));
            touch(&go(&top, &format!("dir-{number}")), "file");
        }
        remove_tree(&dir);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_that_are_immutable_are_removed() {
        let (base, dir) = tree();
        for (depth, flag) in [(1, IFlags::IMMUTABLE), (2 * MAX_OPEN_DIRS, IFlags::APPEND)] {
            let lowest = nest(&dir, depth, "d");
            touch(&lowest, "file");
            let file = openat(&lowest, "file", OFlags::RDONLY, Mode::empty()).unwrap();
            if !(forbid(&file, flag) && forbid(&lowest, flag)) {
                return;
            }
            forbid(&rustix::fs::open(&dir, DIRECTORY, Mode::empty()).unwrap(), flag);
            remove_tree(&dir);
            assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0, "{depth}");
            std::fs::create_dir(&dir).unwrap();
        }
    }

    #[test]
    fn the_rest_is_removed_around_a_file_that_cannot_be() {
        let (base, dir) = tree();
        let lowest = nest(&dir, 2 * MAX_OPEN_DIRS, "d");
        touch(&lowest, "file");
        touch(&lowest, "beside");
        std::fs::write(dir.join("above"), "").unwrap();
        // It may be anybody's by its other name.
        rustix::fs::linkat(&lowest, "file", rustix::fs::CWD, base.path().join("other"), AtFlags::empty())
            .unwrap();
        let file = openat(&lowest, "file", OFlags::RDONLY, Mode::empty()).unwrap();
        if !forbid(&file, IFlags::IMMUTABLE) {
            return;
        }
        remove_tree(&dir);
        let names = rustix::fs::Dir::read_from(&lowest).unwrap().map(|entry| entry.unwrap());
        let names: Vec<_> = names.map(|entry| entry.file_name().to_owned()).collect();
        assert!(names.contains(&c"file".to_owned()) && names.len() == 3, "{names:?}");
        assert!(!dir.join("above").exists());
        rustix::fs::ioctl_setflags(&file, IFlags::empty()).unwrap();
        remove_tree(&dir);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 1);
    }

    #[test]
    fn mounts_are_taken_off_at_any_depth_and_what_is_in_them_stays() {
        let (base, dir) = tree();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("precious"), "precious").unwrap();
        let lowest = nest(&dir, 3_000, "d");
        for (name, times) in [("dir", 1), ("stacked", 3)] {
            go(&lowest, name);
            for _ in 0..times {
                if mount_bind(elsewhere.path(), format!("{}/{name}", path_of(&lowest))).is_err() {
                    eprintln!("skipped: this process may mount nothing");
                    return;
                }
            }
        }
        touch(&lowest, "file");
        mount_bind(elsewhere.path().join("precious"), format!("{}/file", path_of(&lowest))).unwrap();
        std::fs::create_dir(dir.join("memory")).unwrap();
        mount("test", dir.join("memory"), "tmpfs", MountFlags::empty(), None).unwrap();
        std::fs::create_dir(dir.join("memory/below")).unwrap();
        mount_bind(elsewhere.path(), dir.join("memory/below")).unwrap();
        mount_bind(&dir, &dir).unwrap();
        remove_tree(&dir);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
        assert_eq!(std::fs::read(elsewhere.path().join("precious")).unwrap(), b"precious");
    }

    #[test]
    fn a_mount_is_noticed_by_its_number_too() {
        let (_base, dir) = tree();
        let top = rustix::fs::open(&dir, DIRECTORY, Mode::empty()).unwrap();
        go(&top, "within");
        assert!(open_here_by_id(top.as_fd(), c"within").is_ok());
        let root = rustix::fs::open("/", DIRECTORY, Mode::empty()).unwrap();
        assert_eq!(open_here_by_id(root.as_fd(), c"proc").unwrap_err(), Errno::XDEV);
        assert_eq!(open_here(root.as_fd(), c"proc").unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn a_tree_that_is_filled_meanwhile_holds_its_removal_up_for_a_while_only() {
        let (_base, dir) = tree();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0_u64.. {
                    if is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    let below = dir.join(format!("dir-{}", number % 3));
                    let _ = std::fs::create_dir_all(&below);
                    let _ = std::fs::write(below.join(number.to_string()), "");
                }
            });
            remove_tree(&dir);
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        remove_tree(&dir);
        assert!(!dir.exists());
    }
}
