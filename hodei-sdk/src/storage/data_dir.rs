use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::OpenError;

/// A directory of one store, locked for this process: as long as this value lives, no other opens it. The system
/// takes the lock back when the process dies, however it dies.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Its lock is that of the directory.
    lock: File,
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
        Ok(Self { path, lock })
    }

    /// Lets others have it. What is still open in it may read, and must write no more.
    pub fn release(&self) {
        let _ = self.lock.unlock();
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
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

fn note(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}
