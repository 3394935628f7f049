//! Watch on the files of an open database: whether the next start will find the acknowledged changes in them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::SqliteConnection;

use super::super::DataDir;
use super::schema::MAX_KEPT_LOG_BYTES;
use crate::clock::SystemClock;
use crate::storage::data_dir::place::{FileState, WatchedFile};
use crate::storage::data_dir::reserve::Reserve;
use hodei_core::port::{ClockExt, StoreError};

/// The database and its write-ahead log, watched while they are open.
#[derive(Debug)]
pub(super) struct Files {
    dir: Arc<DataDir>,
    database: WatchedFile,
    log: WatchedFile,
    saved: AtomicBool,
}

/// Timeout for saving a lost database.
const SAVE_TIMEOUT: Duration = Duration::from_secs(600);

impl Files {
    /// Watches the files of a database that is open and has been written to.
    pub(super) fn new(dir: Arc<DataDir>) -> io::Result<Self> {
        let database = WatchedFile::new(dir.database())?;
        let log = WatchedFile::new(beside(database.path(), "-wal"))?;
        Ok(Self { dir, database, log, saved: AtomicBool::new(false) })
    }

    /// Returns the disk space that is reserved for cancels and ends.
    pub(super) fn reserve(&self) -> &Reserve {
        self.dir.reserve()
    }

    /// Returns the file that the next start would not find, or would find truncated; takes about two microseconds.
    fn lost(&self) -> Option<(&WatchedFile, FileState)> {
        match self.database.look(u64::MAX) {
            FileState::Whole => {}
            seen => return Some((&self.database, seen)),
        }
        // SQLite itself truncates its log to the limit.
        match self.log.look(MAX_KEPT_LOG_BYTES) {
            FileState::Whole => None,
            FileState::Gone if self.log.was_opened_again() => None,
            seen => Some((&self.log, seen)),
        }
    }

    /// Checks both files on the writing connection, before and after each transaction; fails when one is lost.
    pub(super) async fn check(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        match self.lost() {
            None => Ok(()),
            Some((cut, FileState::Cut))
                if std::ptr::eq(cut, &self.log) && self.has_its_frames(connection).await =>
            {
                self.log.accept();
                Ok(())
            }
            Some((lost, seen)) => Err(self.save(connection, lost, seen).await),
        }
    }

    /// Returns whether the log has all frames that are not in the database yet, as after a checkpoint by another
    /// program.
    async fn has_its_frames(&self, connection: &mut SqliteConnection) -> bool {
        let asked = sqlx::query_as::<_, (i64, i64, i64)>("PRAGMA wal_checkpoint(NOOP)");
        let Ok((_, frames, written)) = asked.fetch_one(connection).await else { return false };
        let Ok(found) = self.log.path().metadata() else { return false };
        // https://www.sqlite.org/fileformat.html#walformat
        frames == written || found.len() >= 32 + frames.unsigned_abs() * (24 + 4096)
    }

    /// On the first call, saves what the open database still has, over the writing connection, and stops the platform.
    /// Returns the error for the callers.
    async fn save(
        &self,
        connection: &mut SqliteConnection,
        lost: &WatchedFile,
        seen: FileState,
    ) -> StoreError {
        let lost = lost.path().display();
        let is_cut = seen == FileState::Cut;
        let did = if is_cut { "cut short by another program" } else { "removed or replaced" };
        if self.saved.swap(true, Ordering::Relaxed) {
            return StoreError::Gone(format!("{lost} was {did} while it was open"));
        }
        let why = if is_cut {
            // When this process ends, SQLite writes the log into the remaining database and empties it.
            let kept = beside(self.log.path(), ".saved");
            let _ = std::fs::copy(self.log.path(), &kept);
            format!(
                "{lost} was {did} while it was open and lost its content; no more changes are accepted. Put a backup of \
                 hodei.db in its place; {} holds the last changes",
                kept.display()
            )
        } else {
            let saved = SystemClock::default().timeout(SAVE_TIMEOUT, self.write_back(connection)).await;
            match saved.unwrap_or_else(|elapsed| Err(elapsed.to_string())) {
                Ok(into) => format!(
                    "{lost} was {did} while it was open; every acknowledged change is saved in {}. If that is hodei.db, \
                     the next start continues with it",
                    into.display()
                ),
                Err(error) => format!(
                    "{lost} was {did} while it was open, and its content cannot be saved: {error}. If its directory \
                     was renamed, the store is intact there"
                ),
            }
        };
        tracing::error!("{why}");
        self.dir.lose();
        StoreError::Gone(why)
    }

    async fn write_back(&self, connection: &mut SqliteConnection) -> Result<PathBuf, String> {
        // A transaction is open only if the last one failed.
        let _ = sqlx::query("ROLLBACK").execute(&mut *connection).await;
        let database = self.database.path();
        if self.database.look(u64::MAX) != FileState::Gone {
            // Only the log is gone: write its pages into the database.
            let moved = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(connection).await;
            return moved.map(|_| database.to_owned()).map_err(|error| error.to_string());
        }
        let new = beside(database, ".new");
        let _ = std::fs::remove_file(&new);
        let name = new.to_str().ok_or("its path is not valid UTF-8")?;
        let written = sqlx::query("VACUUM INTO ?").bind(name).execute(connection).await;
        written.map_err(|error| error.to_string())?;
        place_of(&new, database).map_err(|error| error.to_string())
    }
}

/// Puts a file in the database's place, or beside it if another file is there.
fn place_of(new: &Path, database: &Path) -> io::Result<PathBuf> {
    let is_free = !database.try_exists()?;
    let into = if is_free { database.to_owned() } else { beside(database, ".saved") };
    std::fs::set_permissions(new, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    File::open(new)?.sync_all()?;
    if is_free {
        // A log left by the lost database would be read as the log of the new one.
        for file in ["-wal", "-shm"] {
            match std::fs::remove_file(beside(database, file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    // Unlike a rename, a link replaces no file.
    std::fs::hard_link(new, &into)?;
    std::fs::remove_file(new)?;
    File::open(into.parent().unwrap_or(&into))?.sync_all()?;
    Ok(into)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
