//! The data directory of a store: locked, found again after a move, with room kept for ends when the disk is full.

pub(in crate::storage) mod place;
pub(in crate::storage) mod reserve;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

use crate::error::OpenError;
use reserve::Reserve;

/// A directory of one store, locked for this process: as long as this value lives, no other opens it. The system
/// takes the lock back when the process dies, however it dies.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The file `hodei.lock`, which says who has the directory, and is all that earlier versions lock.
    lock: File,
    /// The directory itself: a lock on it holds when the file is removed.
    directory: File,
    /// The database: a lock on it holds in every directory that it is moved or linked to.
    database: OnceLock<File>,
    lost: CancellationToken,
    reserve: Reserve,
}

impl DataDir {
    /// Locks a directory, made when missing.
    ///
    /// # Errors
    /// [`OpenError::InUse`] names the process that has it; [`OpenError::File`] what cannot be used and why.
    pub fn lock(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let path = path.into();
        let failed = |at: &Path| {
            let path = at.to_owned();
            move |source| OpenError::File { path, source }
        };
        // What jobs are given and print is nobody else's.
        if path.exists() && !path.is_dir() {
            return Err(failed(&path)(io::ErrorKind::NotADirectory.into()));
        }
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(failed(&path))?;
        let directory = File::open(&path).map_err(failed(&path))?;
        if !try_lock(&directory).map_err(failed(&path))? {
            let holder = std::fs::read_to_string(path.join("hodei.lock")).ok();
            let holder = holder.and_then(|text| text.trim().parse().ok()).or_else(|| holder_of(&directory));
            return Err(OpenError::InUse { dir: path, holder });
        }
        let name = path.join("hodei.lock");
        // Not truncated before it is ours: it says whose it is.
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&name);
        let mut lock = options.map_err(failed(&name))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                return Err(OpenError::InUse { dir: path, holder: holder.trim().parse().ok() });
            }
            Err(TryLockError::Error(error)) => return Err(failed(&name)(error)),
        }
        // Who holds it is only for the message of another: a full disk does not keep us out.
        let _ = note(&mut lock);
        let reserve = Reserve::of(&path);
        let (database, lost) = (OnceLock::new(), CancellationToken::new());
        Ok(Self { path, lock, directory, database, lost, reserve })
    }

    /// Locks the database, made when missing: it may be moved, or linked to another directory, whose lock says nothing of
    /// this one. SQLite's own locks are of another kind (`fcntl`) and do not meet this one (`flock`).
    pub(in crate::storage) fn lock_database(&self) -> Result<(), OpenError> {
        let path = self.database();
        let failed = |source| OpenError::File { path: path.clone(), source };
        // What jobs are given and print is nobody else's; the files beside the database follow its mode.
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(failed)?;
        if !try_lock(&file).map_err(failed)? {
            return Err(OpenError::InUse { dir: self.path.clone(), holder: holder_of(&file) });
        }
        let _ = self.database.set(file);
        Ok(())
    }

    /// Lets others have it. Whatever was open in it is closed, and writes no more.
    pub fn release(&self) {
        for file in self.database.get().into_iter().chain([&self.directory, &self.lock]) {
            let _ = file.unlock();
        }
    }

    /// Says that a file in it was removed or replaced under this process, which must acknowledge nothing more.
    pub(in crate::storage) fn lose(&self) {
        self.lost.cancel();
    }

    /// Waits until a file in it is [found lost](Self::lose). Cancel safe.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The room in it that is kept for cancels and ends.
    pub(in crate::storage) fn reserve(&self) -> &Reserve {
        &self.reserve
    }

    /// The database in it.
    pub fn database(&self) -> PathBuf {
        self.path.join("hodei.db")
    }

    /// The folder of the log segments in it.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }
}

/// Whether this process has the lock now. A file system that has no such locks grants it.
fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        // NFS wants a descriptor for writing, which a directory has not.
        Err(TryLockError::Error(error)) if !matches!(error.kind(), io::ErrorKind::Interrupted) => {
            tracing::debug!(%error, "a lock cannot be had on this file system");
            Ok(true)
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The process that has locked a file, where the kernel says so.
fn holder_of(file: &File) -> Option<u32> {
    let found = file.metadata().ok()?;
    let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    let name = format!("{major:02x}:{minor:02x}:{}", found.ino());
    // 1: FLOCK  ADVISORY  WRITE 4711 08:01:131074 0 EOF
    std::fs::read_to_string("/proc/locks").ok()?.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = words[..] else { return None };
        (place == name).then(|| pid.parse().ok())?
    })
}

fn note(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}
