//! Removes a directory tree of any depth, width and permissions that a job left.
//!
//! It loops over descriptors: no recursion, no path longer than a name, no followed link, no entered mount. Directories
//! that are deeper than [`MAX_OPEN_DIRS`] are moved to the top first, so that stack, descriptors and memory do not grow
//! with the depth.

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

/// Maximum number of open directories of one tree.
const MAX_OPEN_DIRS: usize = 32;
/// Maximum number of passes over a directory that a living process keeps filling.
const MAX_PASSES: u32 = 8;
/// Maximum number of visited entries of one tree: bounds the removal of a tree that a process fills faster than it is
/// emptied.
const MAX_ENTRIES: u64 = 100_000_000;
/// Maximum number of warnings about one tree. One more counts the omitted ones.
const MAX_WARNINGS: u64 = 10;
/// Maximum number of names tried for a directory that is moved to the top: the job may have used some.
const MAX_NAMES_TRIED: u32 = 1000;

const DIRECTORY_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const HANDLE_FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes a directory, or anything that replaced it. Links are removed and never followed. Mounts are unmounted and
/// their content stays. Permissions and flags set by the job are no obstacle if this user may change them. A file that
/// cannot be removed stays, with a warning that names it, and the rest is removed.
pub(in crate::executor) fn remove_tree(dir: &Path) {
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {}
        _ => return,
    }
    let mut removal =
        Removal { dir, levels: Vec::new(), moved_up: Vec::new(), numbers: 0, visited: 0, left: 0 };
    if let Err(error) = removal.run() {
        removal.warn(None, &error);
    }
    if removal.left > MAX_WARNINGS {
        let more = removal.left - MAX_WARNINGS;
        tracing::warn!(dir = %dir.display(), more, "more files of a job cannot be removed");
    }
}

struct Removal<'a> {
    dir: &'a Path,
    /// The open directories, from the root of the tree to the one that is being emptied.
    levels: Vec<Level>,
    /// Directories that were moved to the top, by the numbers in their names.
    moved_up: Vec<u64>,
    /// The next number.
    numbers: u64,
    visited: u64,
    /// Number of entries that could not be removed.
    left: u64,
}

/// A directory that is being emptied.
struct Level {
    name: CString,
    entries: Dir,
    passes: u32,
    /// Whether an entry in it could not be removed.
    is_kept: bool,
}

impl Level {
    /// Opens a directory. Unmounts it and corrects its permissions if necessary.
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
            // If this fails, so does the removal of its entries, with a warning.
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
            // It is not a directory.
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

    /// Returns the next entry of the lowest directory and whether it is a directory; `None` at the end.
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
                self.visited += 1;
                if self.visited > MAX_ENTRIES {
                    return Err(io::Error::other("a process keeps filling it"));
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
            // The file system does not return the types of entries.
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

    /// Moves a directory that is too deep to the top.
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
                // The job used this name.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                moved => {
                    moved?;
                    self.moved_up.push(number);
                    return Ok(());
                }
            }
        }
        Err(io::Error::other("it is too deep, and all names for it at the top are taken"))
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

    /// Removes the lowest directory, all entries of which were read.
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

    /// Notes that an entry of the lowest directory stays, and the directory with it.
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
            // The root of the tree is named by `dir`, whether or not its level exists yet.
            let below = below.filter(|name| !self.levels.is_empty() || Some(*name) != self.dir.file_name());
            let path: PathBuf = [self.dir.as_os_str()].into_iter().chain(below).collect();
            tracing::warn!(path = %path.display(), %error, "a file of a job cannot be removed");
        }
    }
}

fn moved_up_name(number: u64) -> String {
    format!(".hodei-from-below-{number}")
}

/// Ignores the error for an entry that was removed or replaced since it was read: the next pass sees its current state.
fn unless_changed(error: io::Error) -> io::Result<()> {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        _ => Err(error),
    }
}

/// Removes a file or an empty directory. Removes mounts and obstacles first if necessary.
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

/// Opens a directory if it is in the same mount.
fn open_here(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let same_mount = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    match openat2(at, name, DIRECTORY_FLAGS, Mode::empty(), same_mount) {
        // Before Linux 5.6, or in a container that does not allow the call.
        Err(Errno::NOSYS | Errno::PERM) => open_here_by_id(at, name),
        opened => opened,
    }
}

fn open_here_by_id(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let dir = openat(at, name, DIRECTORY_FLAGS, Mode::empty())?;
    match (mounts::id_of(at), mounts::id_of(dir.as_fd())) {
        (Some(here), Some(there)) if here == there => Ok(dir),
        _ => Err(Errno::XDEV),
    }
}

/// Clears the immutable and append-only flags of a file and of its directory, and gives this user access, as far as
/// permitted. A file with several names keeps its flags, since others may use it elsewhere.
fn remove_obstacles(at: BorrowedFd<'_>, name: &CStr) {
    let _ = remove_flags(at, c".");
    let _ = remove_flags(at, name);
    let _ = give_rights(at, name);
}

fn remove_flags(at: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let handle = openat(at, name, HANDLE_FLAGS, Mode::empty())?;
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

/// Gives this user all permissions on a directory. Never follows a link.
fn give_rights(at: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let handle = openat(at, name, HANDLE_FLAGS | OFlags::DIRECTORY, Mode::empty())?;
    rustix::fs::chmod(path_of(&handle), Mode::RWXU)
}

/// Returns a path to an open file that stays valid when the file is renamed.
fn path_of(handle: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use rustix::fs::mkdirat;
    use rustix::mount::{MountFlags, mount, mount_bind};

    use super::*;

    /// Returns a directory, and its temporary parent, which must be empty after the removal.
    fn tree() -> (tempfile::TempDir, PathBuf) {
        // 20,000 directories may take a minute on a disk.
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let base = base.unwrap();
        let dir = base.path().join("workspace");
        std::fs::create_dir(&dir).unwrap();
        (base, dir)
    }

    fn go(at: &OwnedFd, name: &str) -> OwnedFd {
        mkdirat(at, name, Mode::RWXU).unwrap();
        openat(at, name, DIRECTORY_FLAGS, Mode::empty()).unwrap()
    }

    fn nest(dir: &Path, depth: usize, name: &str) -> OwnedFd {
        let start = rustix::fs::open(dir, DIRECTORY_FLAGS, Mode::empty()).unwrap();
        (0..depth).fold(start, |at, _| go(&at, name))
    }

    fn touch(at: &OwnedFd, name: &str) {
        openat(at, name, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    }

    /// Sets a flag. Returns false if the file system has no flags, or this user may not set them.
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
            // Names that the removal would use at the top.
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
        let start = rustix::fs::open(&dir, DIRECTORY_FLAGS, Mode::empty()).unwrap();
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
    fn odd_names_kinds_and_permissions_are_removed_and_targets_of_links_stay() {
        let (base, dir) = tree();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("precious"), "precious").unwrap();
        let top = rustix::fs::open(&dir, DIRECTORY_FLAGS, Mode::empty()).unwrap();
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
        // A link in place of the directory itself.
        std::os::unix::fs::symlink(elsewhere.path(), &dir).unwrap();
        remove_tree(&dir);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
        assert!(elsewhere.path().join("precious").exists());
        remove_tree(&dir);
    }

    #[test]
    fn many_entries_are_removed() {
        let (base, dir) = tree();
        let top = rustix::fs::open(&dir, DIRECTORY_FLAGS, Mode::empty()).unwrap();
        for number in 0..5_000 {
            touch(&top, &format!("file-{number}"));
            touch(&go(&top, &format!("dir-{number}")), "file");
        }
        remove_tree(&dir);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn immutable_files_are_removed() {
        let (base, dir) = tree();
        for (depth, flag) in [(1, IFlags::IMMUTABLE), (2 * MAX_OPEN_DIRS, IFlags::APPEND)] {
            let lowest = nest(&dir, depth, "d");
            touch(&lowest, "file");
            let file = openat(&lowest, "file", OFlags::RDONLY, Mode::empty()).unwrap();
            if !(forbid(&file, flag) && forbid(&lowest, flag)) {
                return;
            }
            forbid(&rustix::fs::open(&dir, DIRECTORY_FLAGS, Mode::empty()).unwrap(), flag);
            remove_tree(&dir);
            assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0, "{depth}");
            std::fs::create_dir(&dir).unwrap();
        }
    }

    #[test]
    fn a_file_that_cannot_be_removed_does_not_stop_the_rest() {
        let (base, dir) = tree();
        let lowest = nest(&dir, 2 * MAX_OPEN_DIRS, "d");
        touch(&lowest, "file");
        touch(&lowest, "beside");
        std::fs::write(dir.join("above"), "").unwrap();
        // The file has a second name outside of the tree.
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
    fn mounts_are_unmounted_at_any_depth_and_their_content_stays() {
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
    fn a_mount_is_also_detected_by_its_number() {
        let (_base, dir) = tree();
        let top = rustix::fs::open(&dir, DIRECTORY_FLAGS, Mode::empty()).unwrap();
        go(&top, "within");
        assert!(open_here_by_id(top.as_fd(), c"within").is_ok());
        let root = rustix::fs::open("/", DIRECTORY_FLAGS, Mode::empty()).unwrap();
        assert_eq!(open_here_by_id(root.as_fd(), c"proc").unwrap_err(), Errno::XDEV);
        assert_eq!(open_here(root.as_fd(), c"proc").unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn the_removal_of_a_tree_that_is_being_filled_ends() {
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
