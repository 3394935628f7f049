//! Identity of a database file: tells a moved store from a copy of it, and a file that is still there from one that was
//! removed or replaced under the process that has it open.

use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

/// The file system's identity of a file or directory. A rename and a reboot keep both numbers; a copy has others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct FileNumber {
    inode: u64,
    /// Creation time in nanoseconds since 1970; 0 when the file system does not record it.
    born: u64,
}

impl FileNumber {
    fn of(found: &Metadata) -> Self {
        let born = found.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let born = born.and_then(|since| u64::try_from(since.as_nanos()).ok());
        Self { inode: found.ino(), born: born.unwrap_or(0) }
    }
}

/// The place of a database, as it is stored in the database itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::storage) struct Place {
    /// Bytes of the file's path: absolute, without symbolic links.
    path: Vec<u8>,
    file: FileNumber,
    directory: FileNumber,
}

/// How a database relates to the place where it was last opened.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::storage) enum PlaceChange {
    /// It is the same database, perhaps under another name.
    Same,
    /// It is a copy, and the original is still at this path.
    Copy(PathBuf),
    /// It is another file in another directory, and the original is not at its place: restored, or copied to another
    /// disk or machine.
    Restored,
}

impl Place {
    /// Returns the place of an existing database.
    pub(in crate::storage) fn of(database: &Path) -> io::Result<Self> {
        let path = database.canonicalize()?;
        let directory = FileNumber::of(&path.parent().unwrap_or(&path).metadata()?);
        let file = FileNumber::of(&path.metadata()?);
        Ok(Self { path: path.into_os_string().into_vec(), file, directory })
    }

    /// Compares this place with the one that the database has stored.
    pub(in crate::storage) fn compare(&self, stored: &Self) -> PlaceChange {
        let (own, original) = (self.path(), stored.path());
        let is_there = |path: &Path| path.metadata().ok();
        let original_there = is_there(original).filter(|found| FileNumber::of(found) == stored.file);
        // A snapshot has its original's numbers, but on another device.
        let is_own = |found: &Metadata| is_there(own).is_some_and(|own| is_same_file(&own, found));
        match original_there {
            Some(found) if !is_own(&found) => PlaceChange::Copy(original.to_owned()),
            _ if self.file == stored.file || self.directory == stored.directory => PlaceChange::Same,
            _ => PlaceChange::Restored,
        }
    }

    fn path(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(&self.path))
    }
}

fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// State of an open file, as seen at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) enum FileState {
    Whole,
    /// The file is shorter than it was.
    Cut,
    /// The path leads to no file or to another one.
    Gone,
}

/// A file that this process has open, and the path by which the next process will look for it.
#[derive(Debug)]
pub(in crate::storage) struct WatchedFile {
    path: PathBuf,
    /// Device and inode of the open file.
    open: (u64, u64),
    /// Greatest length that the file had, in bytes.
    longest: AtomicU64,
}

impl WatchedFile {
    /// Creates a watch on a file that this process has just opened by this path.
    pub(in crate::storage) fn new(path: PathBuf) -> io::Result<Self> {
        let found = path.metadata()?;
        Ok(Self { open: (found.dev(), found.ino()), longest: AtomicU64::new(found.len()), path })
    }

    /// Checks the path with one `stat`, about a microsecond. A file may shrink to `limit` bytes without counting as
    /// cut.
    pub(in crate::storage) fn look(&self, limit: u64) -> FileState {
        match self.path.metadata() {
            Ok(found) if (found.dev(), found.ino()) == self.open => {
                let longest = self.longest.fetch_max(found.len(), Ordering::Relaxed);
                if longest.min(limit) <= found.len() { FileState::Whole } else { FileState::Cut }
            }
            _ => FileState::Gone,
        }
    }

    /// Accepts the current length: the program that owns the file truncated it.
    pub(in crate::storage) fn accept(&self) {
        let bytes = self.path.metadata().map_or(0, |found| found.len());
        self.longest.store(bytes, Ordering::Relaxed);
    }

    /// Returns whether the path leads to a file that this process opened later, as SQLite may do with its write-ahead
    /// log.
    pub(in crate::storage) fn was_opened_again(&self) -> bool {
        let Ok(now) = self.path.metadata() else { return false };
        let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") else { return false };
        descriptors.flatten().any(|open| open.path().metadata().is_ok_and(|open| is_same_file(&open, &now)))
    }

    pub(in crate::storage) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(dir: &Path) -> PathBuf {
        std::fs::create_dir_all(dir).unwrap();
        let path = dir.join("hodei.db");
        std::fs::write(&path, "x").unwrap();
        path
    }

    #[test]
    fn a_moved_database_is_the_same_and_a_copy_names_its_original() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, c) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        let stored = Place::of(&database(&a)).unwrap();
        assert_eq!(Place::of(&a.join("hodei.db")).unwrap().compare(&stored), PlaceChange::Same);
        let copy = Place::of(&database(&b)).unwrap();
        assert_eq!(copy.compare(&stored), PlaceChange::Copy(a.canonicalize().unwrap().join("hodei.db")));
        // A symbolic link to the original is not a copy.
        std::os::unix::fs::symlink(&a, dir.path().join("link")).unwrap();
        assert_eq!(Place::of(&dir.path().join("link/hodei.db")).unwrap().compare(&stored), PlaceChange::Same);
        std::fs::rename(&a, &c).unwrap();
        assert_eq!(Place::of(&c.join("hodei.db")).unwrap().compare(&stored), PlaceChange::Same);
        assert_eq!(copy.compare(&stored), PlaceChange::Restored, "the original is not at its path any more");
        // A backup that is restored into its directory is still the store of that directory.
        std::fs::remove_file(c.join("hodei.db")).unwrap();
        std::fs::write(dir.path().join("other"), "y").unwrap();
        std::fs::copy(dir.path().join("other"), c.join("hodei.db")).unwrap();
        assert_eq!(Place::of(&c.join("hodei.db")).unwrap().compare(&stored), PlaceChange::Same);
    }

    #[test]
    fn truncation_is_detected_and_growth_is_not_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path());
        let watched = WatchedFile::new(path.clone()).unwrap();
        for (text, seen) in
            [("x", FileState::Whole), ("xyz", FileState::Whole), ("xy", FileState::Cut), ("", FileState::Cut)]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(watched.look(u64::MAX), seen, "{text:?}");
        }
        std::fs::write(&path, "xy").unwrap();
        assert_eq!(watched.look(2), FileState::Whole, "the file may shrink to the limit");
    }

    #[test]
    fn removal_move_and_replacement_of_a_file_are_detected() {
        let dir = tempfile::tempdir().unwrap();
        for change in ["remove", "move", "replace"] {
            let path = database(&dir.path().join(change));
            let watched = WatchedFile::new(path.clone()).unwrap();
            assert_eq!(watched.look(u64::MAX), FileState::Whole);
            match change {
                "remove" => std::fs::remove_file(&path).unwrap(),
                "move" => std::fs::rename(&path, path.with_extension("away")).unwrap(),
                _ => {
                    std::fs::write(path.with_extension("new"), "y").unwrap();
                    std::fs::rename(path.with_extension("new"), &path).unwrap();
                }
            }
            assert_eq!(watched.look(u64::MAX), FileState::Gone, "{change}");
        }
    }
}
