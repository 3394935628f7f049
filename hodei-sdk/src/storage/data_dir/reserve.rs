//! Room on the disk of a data directory that is kept for cancels and ends: when the disk is full, it is given to them.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Bytes of it, at most.
const RESERVE_BYTES: u64 = 256 << 10;
/// Its part of a small disk.
const PART_OF_DISK: u64 = 8;

/// A file that holds room, and whether it does now.
#[derive(Debug)]
pub(in crate::storage) struct Reserve {
    path: PathBuf,
    /// True as well where no room can be kept, since none can be given away then.
    is_held: AtomicBool,
}

impl Reserve {
    /// That of a directory. Where there is no room for it now, there may be later: it keeps nothing from starting.
    pub(in crate::storage) fn of(dir: &Path) -> Self {
        let reserve = Self { path: dir.join("hodei.reserve"), is_held: AtomicBool::new(false) };
        let held = reserve.take(1);
        if let Err(error) = &held {
            tracing::info!(%error, path = %reserve.path.display(), "no room is kept for cancels and ends");
        }
        reserve.is_held.store(!held.is_err_and(|error| is_full(&error)), Ordering::Relaxed);
        reserve
    }

    /// Whether others may write: false while the room is given away and the disk has none to take it back from.
    pub(in crate::storage) fn is_held(&self) -> bool {
        if self.is_held.load(Ordering::Relaxed) {
            return true;
        }
        // With some to spare: what is taken back at once would be given away at once.
        let is_back = !self.take(2).is_err_and(|error| is_full(&error));
        self.is_held.store(is_back, Ordering::Relaxed);
        is_back
    }

    /// Gives the room away; false when it was given away before.
    pub(in crate::storage) fn release(&self) -> bool {
        if !self.is_held.swap(false, Ordering::Relaxed) {
            return false;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the room that is kept for cancels and ends cannot be given to them");
        }
        tracing::warn!(
            "the disk of the data directory is full: cancels and ends have the room that was kept for them"
        );
        true
    }

    /// Takes it where `times` as much is free.
    fn take(&self, times: u64) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(&self.path);
        let about = statvfs(dir)?;
        let (total, free) = (about.f_blocks * about.f_frsize, about.f_bavail * about.f_frsize);
        let bytes = RESERVE_BYTES.min(total / PART_OF_DISK);
        // A copy may be a file of holes.
        let has = std::fs::metadata(&self.path)
            .is_ok_and(|about| about.len() >= bytes && about.blocks() * BLOCK_BYTES >= bytes);
        if has {
            return Ok(());
        }
        if free < bytes * times {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        let taken = fallocate(&file, FallocateFlags::empty(), 0, bytes);
        taken.map_err(|error| {
            let _ = std::fs::remove_file(&self.path);
            error.into()
        })
    }
}

/// Whether a failure is that of a disk without room. A file system that cannot keep any, as one without `fallocate`, may
/// have some.
pub(in crate::storage) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    // A limit of the size of files (`ulimit -f`) leaves no room either.
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// The unit of [`MetadataExt::blocks`], whatever that of the file system is.
const BLOCK_BYTES: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_away_once_and_taken_back_when_there_is_some() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(dir.path());
        assert!(reserve.is_held() && dir.path().join("hodei.reserve").is_file());
        assert!(reserve.release() && !reserve.release());
        assert!(!dir.path().join("hodei.reserve").exists());
        assert!(reserve.is_held(), "this disk has room");
        assert!(Reserve::of(dir.path()).is_held(), "another start finds it");
    }

    #[test]
    fn a_file_system_that_keeps_no_room_takes_jobs_all_the_same() {
        let nothing_is_made_there = Reserve::of(Path::new("/proc/self"));
        assert!(nothing_is_made_there.is_held());
        for (kind, full) in [
            (io::ErrorKind::Unsupported, false),
            (io::ErrorKind::PermissionDenied, false),
            (io::ErrorKind::StorageFull, true),
            (io::ErrorKind::QuotaExceeded, true),
            (io::ErrorKind::FileTooLarge, true),
        ] {
            assert_eq!(is_full(&kind.into()), full, "{kind}");
        }
    }

    #[test]
    fn a_file_of_holes_keeps_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hodei.reserve");
        File::create(&path).unwrap().set_len(RESERVE_BYTES).unwrap();
        assert!(Reserve::of(dir.path()).is_held());
        assert!(std::fs::metadata(&path).unwrap().blocks() * BLOCK_BYTES >= RESERVE_BYTES);
    }
}
