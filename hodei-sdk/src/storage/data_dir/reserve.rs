//! Disk space that is reserved for cancels and ends, and released to them when the disk is full.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Maximum size of the reserve.
const MAX_RESERVE_BYTES: u64 = 256 << 10;
/// The reserve takes at most this fraction of the disk: one eighth.
const DISK_SHARE_DIVISOR: u64 = 8;

/// The file that occupies the reserved space, and whether it does now.
#[derive(Debug)]
pub(in crate::storage) struct Reserve {
    path: PathBuf,
    /// Also true when no space can be reserved, because none can be released then.
    is_held: AtomicBool,
}

impl Reserve {
    /// Opens the reserve of a directory. A full disk does not prevent a start: the space may be reserved later.
    pub(in crate::storage) fn of(dir: &Path) -> Self {
        let reserve = Self { path: dir.join("hodei.reserve"), is_held: AtomicBool::new(false) };
        let held = reserve.take(1);
        if let Err(error) = &held {
            tracing::info!(%error, path = %reserve.path.display(), "no disk space is reserved for cancels and ends");
        }
        reserve.is_held.store(!held.is_err_and(|error| is_full(&error)), Ordering::Relaxed);
        reserve
    }

    /// Returns whether other writes are allowed: false while the space is released and the disk is too full to reserve
    /// it again.
    pub(in crate::storage) fn is_held(&self) -> bool {
        if self.is_held.load(Ordering::Relaxed) {
            return true;
        }
        // Require spare space, so that the reserve is not released again at once.
        let is_back = !self.take(2).is_err_and(|error| is_full(&error));
        self.is_held.store(is_back, Ordering::Relaxed);
        is_back
    }

    /// Releases the space; false when it was released before.
    pub(in crate::storage) fn release(&self) -> bool {
        if !self.is_held.swap(false, Ordering::Relaxed) {
            return false;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the disk space reserved for cancels and ends cannot be released");
        }
        tracing::warn!(
            "the disk of the data directory is full; cancels and ends use the reserved space. Free some disk space"
        );
        true
    }

    /// Reserves the space if `times` its size is free.
    fn take(&self, times: u64) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(&self.path);
        let about = statvfs(dir)?;
        let (total, free) = (about.f_blocks * about.f_frsize, about.f_bavail * about.f_frsize);
        let bytes = MAX_RESERVE_BYTES.min(total / DISK_SHARE_DIVISOR);
        // A copied reserve may be sparse and occupy no space.
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

/// Returns whether an error means that the disk is full. A file system that cannot reserve space, such as one without
/// `fallocate`, may still have some.
pub(in crate::storage) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    // A limit on the size of files (`ulimit -f`) has the same effect as a full disk.
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Unit of [`MetadataExt::blocks`], independent of the file system's block size.
const BLOCK_BYTES: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_released_once_and_taken_back_when_space_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(dir.path());
        assert!(reserve.is_held() && dir.path().join("hodei.reserve").is_file());
        assert!(reserve.release() && !reserve.release());
        assert!(!dir.path().join("hodei.reserve").exists());
        assert!(reserve.is_held(), "this disk has room");
        assert!(Reserve::of(dir.path()).is_held(), "the next start finds the reserve");
    }

    #[test]
    fn a_file_system_that_cannot_reserve_space_still_allows_writes() {
        let unwritable = Reserve::of(Path::new("/proc/self"));
        assert!(unwritable.is_held());
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
    fn a_sparse_reserve_file_is_filled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hodei.reserve");
        File::create(&path).unwrap().set_len(MAX_RESERVE_BYTES).unwrap();
        assert!(Reserve::of(dir.path()).is_held());
        assert!(std::fs::metadata(&path).unwrap().blocks() * BLOCK_BYTES >= MAX_RESERVE_BYTES);
    }
}
