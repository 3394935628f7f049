//! Data directory of a store: its lock, the detection of moves, and the reserve of disk space for ends.

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

/// A directory of one store, locked for this process: no other process opens it while this value lives. The system
/// releases the lock when the process dies, in any way.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The file `hodei.lock`, which names the holder, and is the only lock of earlier versions.
    lock: File,
    /// The directory itself: its lock holds even if the file is removed.
    directory: File,
    /// The database: its lock holds in every directory that it is moved or linked to.
    database: OnceLock<File>,
    lost: CancellationToken,
    reserve: Reserve,
}

impl DataDir {
    /// Locks a directory and creates it if missing.
    ///
    /// # Errors
    /// [`OpenError::InUse`] names the process that holds it; [`OpenError::File`] the unusable file and the reason.
    pub fn lock(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let path = path.into();
        let failed = |at: &Path| {
            let path = at.to_owned();
            move |source| OpenError::File { path, source }
        };
        // Job inputs and output are private, so only the owner may enter.
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
        // Do not truncate before it is locked: it names the holder.
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
        // The pid only serves another process's error message, so a full disk must not prevent the start.
        let _ = note(&mut lock);
        let reserve = Reserve::of(&path);
        let (database, lost) = (OnceLock::new(), CancellationToken::new());
        Ok(Self { path, lock, directory, database, lost, reserve })
    }

    /// Locks the database and creates it if missing. The database may be moved, or linked to another directory, so the
    /// lock of this directory does not protect it. SQLite's own locks are of another kind (`fcntl`) and do not conflict
    /// with this one (`flock`).
    pub(in crate::storage) fn lock_database(&self) -> Result<(), OpenError> {
        let path = self.database();
        let failed = |source| OpenError::File { path: path.clone(), source };
        // Job inputs and output are private; the files beside the database take its mode.
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(failed)?;
        if !try_lock(&file).map_err(failed)? {
            return Err(OpenError::InUse { dir: self.path.clone(), holder: holder_of(&file) });
        }
        let _ = self.database.set(file);
        Ok(())
    }

    /// Unlocks it for other processes. The caller has closed every file in it and writes no more.
    pub fn release(&self) {
        for file in self.database.get().into_iter().chain([&self.directory, &self.lock]) {
            let _ = file.unlock();
        }
    }

    /// Reports that a file in it was removed or replaced under this process, which must acknowledge no more writes.
    pub(in crate::storage) fn lose(&self) {
        self.lost.cancel();
    }

    /// Waits until a file in it is [reported lost](Self::lose). Cancel safe.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the disk space that is reserved for cancels and ends.
    pub(in crate::storage) fn reserve(&self) -> &Reserve {
        &self.reserve
    }

    /// Returns the path of the database.
    pub fn database(&self) -> PathBuf {
        self.path.join("hodei.db")
    }

    /// Returns the folder of the log segments.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }
}

/// Tries to lock a file; true when this process has it now, or the file system has no such locks.
fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        // NFS needs a descriptor open for writing, which a directory cannot have.
        Err(TryLockError::Error(error)) if !matches!(error.kind(), io::ErrorKind::Interrupted) => {
            tracing::debug!(%error, "this file system does not support the lock");
            Ok(true)
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Returns the process that has locked a file, if the kernel tells.
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
