//! The workspaces of jobs, and their directories for temporary files.

use std::ffi::OsStr;
use std::fs::{DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hodei_core::job::FailureCause;
use hodei_core::port::Clock;
use rustix::fs::{Mode, OFlags};

use crate::executor::Job;
use crate::executor::blocking::blocking;
use crate::executor::host::marks::Marks;
use crate::executor::host::names::PREFIX;
use crate::executor::host::removal::remove_tree;
use crate::executor::shortage::NotStarted;

/// Where jobs have their workspaces, which are removed when the job ends.
#[derive(Debug, Clone)]
pub struct Workspaces {
    /// The parent directory, by default the one for temporary files.
    pub dir: PathBuf,
    /// Whether a job that needs no workspace runs in the working directory of the agent: a job without inputs, outputs
    /// and a working directory. By default every job has a workspace.
    pub only_if_needed: bool,
}

impl Default for Workspaces {
    fn default() -> Self {
        Self { dir: std::env::temp_dir(), only_if_needed: false }
    }
}

/// Creates the workspaces of a worker, and keeps unused ones for the next job (docs/decisions/0009).
#[derive(Debug)]
pub(in crate::executor) struct WorkspacePool {
    workspaces: Workspaces,
    shelf: Arc<Shelf>,
    /// Directories for temporary files.
    temps: Arc<Shelf>,
}

/// The directories of one kind that wait for the next job.
#[derive(Debug)]
struct Shelf {
    clock: Arc<dyn Clock>,
    spares: Mutex<Spares>,
}

#[derive(Debug, Default)]
struct Spares {
    /// Number of directories created so far.
    made: u64,
    dirs: Vec<Dir>,
}

/// A directory, which another one may have replaced at its path.
#[derive(Debug, Default)]
struct Dir {
    path: PathBuf,
    id: DirId,
    seen: Option<Seen>,
}

/// The identity of a directory: its file system and inode.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct DirId {
    device: u64,
    inode: u64,
}

/// The last check that found a directory unchanged, with the time of its last change (see inode(7)).
#[derive(Debug, Clone, Copy)]
struct Seen {
    changed: (i64, i64),
    /// When it first had this time of change, on the monotonic clock.
    at: Duration,
    /// Whether every later change is visible in the time of change, so that comparing the time is enough.
    is_ripe: bool,
}

/// Minimum distance of two changes that have different times: file systems count in ticks of at most 10 ms.
const MIN_CHANGE_DISTANCE: Duration = Duration::from_millis(50);

impl WorkspacePool {
    pub(in crate::executor) fn new(clock: Arc<dyn Clock>, workspaces: Workspaces) -> Self {
        let shelf = || Arc::new(Shelf { clock: clock.clone(), spares: Mutex::default() });
        Self { workspaces, shelf: shelf(), temps: shelf() }
    }

    /// Creates the workspace of an attempt; `None` if it does not need one.
    ///
    /// # Errors
    /// [`FailureCause::Io`] or a shortage: the job is not at fault.
    pub(in crate::executor) fn make(
        &self,
        marks: &Marks,
        job: &Job,
    ) -> Result<Option<Workspace>, NotStarted> {
        if self.workspaces.only_if_needed && !job.spec.needs_workspace() {
            return Ok(None);
        }
        let shelf = &self.shelf;
        if job.spec.keep_workspace() {
            // The name is not that of a leftover, so a kept workspace survives the removal of leftovers.
            let name = || format!("{PREFIX}kept-{}.{}", job.attempt.job, job.attempt.number);
            let dir = self.make_dir("the workspace", 1, name)?;
            return Ok(Some(Workspace { dir, stays: true, shelf: shelf.clone() }));
        }
        let name = || format!("{}workspace-{}", marks.prefix(), shelf.number());
        let dir = shelf.spare().map_or_else(|| self.make_dir("the workspace", MAX_NAME_TRIES, name), Ok)?;
        Ok(Some(Workspace { dir, stays: false, shelf: shelf.clone() }))
    }

    /// Creates a directory for the temporary files of an attempt, or for its script.
    ///
    /// # Errors
    /// [`FailureCause::Io`] or a shortage: the job is not at fault.
    pub(in crate::executor) fn make_temp(&self, marks: &Marks) -> Result<Workspace, NotStarted> {
        let shelf = &self.temps;
        let name = || format!("{}{}", marks.temp_prefix(), shelf.number());
        let what = "the directory for temporary files";
        let dir = shelf.spare().map_or_else(|| self.make_dir(what, MAX_NAME_TRIES, name), Ok)?;
        Ok(Workspace { dir, stays: false, shelf: shelf.clone() })
    }

    /// Creates a directory under the first free name, in at most `tries` tries.
    fn make_dir(&self, what: &str, mut tries: usize, name: impl Fn() -> String) -> Result<Dir, NotStarted> {
        // An absolute path stays valid when the job changes its directory.
        let base = &self.workspaces.dir;
        let base = std::path::absolute(base).unwrap_or_else(|_| base.clone());
        loop {
            tries -= 1;
            let path = base.join(name());
            match make(&base, &path) {
                Ok(id) => return Ok(Dir::new(path, id)),
                // An earlier executor left it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries > 0 => {}
                Err(error) => {
                    let what = format!("{what} {} cannot be created", path.display());
                    return Err(NotStarted::of(&error, &what, || {
                        FailureCause::Io(format!("{what}: {error}"))
                    }));
                }
            }
        }
    }
}

impl Shelf {
    fn spares(&self) -> MutexGuard<'_, Spares> {
        // A panic of another thread leaves consistent data.
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of the next directory.
    fn number(&self) -> u64 {
        let mut spares = self.spares();
        spares.made += 1;
        spares.made
    }

    /// Takes a directory that still exists: a clean-up may have removed some.
    fn spare(&self) -> Option<Dir> {
        loop {
            let mut dir = self.spares().dirs.pop()?;
            if dir.is_there_at(self.clock.monotonic()) {
                return Some(dir);
            }
        }
    }
}

/// Maximum number of names tried for a new directory.
const MAX_NAME_TRIES: usize = 1000;

/// Creates a directory. Returns its identity.
fn make(base: &Path, path: &Path) -> io::Result<DirId> {
    let make = || DirBuilder::new().mode(0o700).create(path);
    make().or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => std::fs::create_dir_all(base).and_then(|()| make()),
        // A job may have removed the permissions of the parent.
        io::ErrorKind::PermissionDenied if open_again(base).is_ok() => make(),
        _ => Err(error),
    })?;
    Ok(DirId::of(&std::fs::symlink_metadata(path)?))
}

/// Restores the permissions of this user on a directory that belongs to it.
fn open_again(base: &Path) -> io::Result<()> {
    let about = std::fs::symlink_metadata(base)?;
    if !about.is_dir() || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    std::fs::set_permissions(base, Permissions::from_mode(about.mode() | 0o700))
}

/// The workspace of one attempt. It is removed when dropped, unless it is kept.
#[derive(Debug)]
pub(in crate::executor) struct Workspace {
    dir: Dir,
    /// Whether it is kept, or left to the next job.
    stays: bool,
    shelf: Arc<Shelf>,
}

impl Workspace {
    pub(in crate::executor) fn dir(&self) -> &Path {
        &self.dir.path
    }

    /// Creates the directory again if it disappeared. Returns whether it did.
    pub(in crate::executor) fn make_again(&mut self) -> bool {
        if self.dir.is_there() {
            return false;
        }
        let base = self.dir.path.parent().unwrap_or(&self.dir.path);
        match make(base, &self.dir.path) {
            Ok(id) => {
                (self.dir.id, self.dir.seen) = (id, None);
                true
            }
            Err(error) => {
                tracing::warn!(%error, dir = %self.dir.path.display(), "cannot recreate a workspace that disappeared");
                false
            }
        }
    }

    /// Removes the directory, on another thread if it has content. Leaves it to the next job instead if it is unchanged
    /// and no process may still use it. The removal continues if the future is dropped.
    pub(in crate::executor) async fn remove(mut self, is_deserted: bool) {
        if self.stays {
            return;
        }
        if is_deserted && self.dir.is_as_made(self.shelf.clock.monotonic()) {
            self.stays = true;
            let dir = std::mem::take(&mut self.dir);
            self.shelf.spares().dirs.push(dir);
        } else if std::fs::remove_dir(self.dir()).is_ok() {
            self.stays = true;
        } else {
            blocking(move || drop(self)).await;
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !self.stays {
            remove_tree(&self.dir.path);
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.dirs.iter().for_each(|dir| remove_tree(&dir.path));
    }
}

impl Seen {
    /// Returns whether every change from now on will be visible in the time of change, which is currently `changed`.
    fn ripens(&self, changed: (i64, i64), now: Duration) -> bool {
        // Zero nanoseconds indicate a file system that counts whole seconds.
        let is_fine = self.changed.1 != 0;
        is_fine && changed == self.changed && now >= self.at + MIN_CHANGE_DISTANCE
    }
}

impl DirId {
    fn of(about: &Metadata) -> Self {
        Self { device: about.dev(), inode: about.ino() }
    }
}

impl Dir {
    fn new(path: PathBuf, id: DirId) -> Self {
        Self { path, id, seen: None }
    }

    fn look(&self) -> Option<Metadata> {
        std::fs::symlink_metadata(&self.path)
            .ok()
            .filter(|about| about.is_dir() && DirId::of(about) == self.id)
    }

    fn is_there(&self) -> bool {
        self.look().is_some()
    }

    /// Returns whether it still exists, at the time when a job receives it.
    fn is_there_at(&mut self, now: Duration) -> bool {
        let Some(about) = self.look() else { return false };
        if let Some(seen) = &mut self.seen {
            seen.is_ripe = seen.ripens(changed(&about), now);
        }
        true
    }

    /// Returns whether it still exists, is empty and has its original permissions.
    fn is_as_made(&mut self, now: Duration) -> bool {
        let Some(about) = self.look() else { return false };
        let changed = changed(&about);
        let seen = self.seen.filter(|seen| seen.changed == changed);
        if seen.is_some_and(|seen| seen.is_ripe) {
            return true;
        }
        let is = self.is_empty_and_own().unwrap_or(false);
        self.seen = is.then_some(seen.unwrap_or(Seen { changed, at: now, is_ripe: false }));
        is
    }

    fn is_empty_and_own(&self) -> rustix::io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&self.path, flags, Mode::empty())?;
        let about = rustix::fs::fstat(&opened)?;
        let is_it = DirId { device: about.st_dev, inode: about.st_ino } == self.id
            && about.st_uid == rustix::process::geteuid().as_raw()
            && Mode::from_raw_mode(about.st_mode) == Mode::RWXU;
        let mut entries = rustix::fs::Dir::new(opened)?;
        let is_empty = entries
            .all(|entry| entry.is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b"..")));
        Ok(is_it && is_empty)
    }
}

fn changed(about: &Metadata) -> (i64, i64) {
    (about.ctime(), about.ctime_nsec())
}

/// Removes all directories whose names match and that belong to this user: the parent directory may be shared.
pub(in crate::executor) fn remove_all(dir: &Path, is_left: impl Fn(&OsStr) -> bool) {
    let own = rustix::process::geteuid().as_raw();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_own = || entry.metadata().is_ok_and(|about| about.is_dir() && about.uid() == own);
        if is_left(&entry.file_name()) && is_own() {
            remove_tree(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_change_is_trusted_if_each_change_has_a_different_one() {
        let at = Duration::from_secs(100);
        let seen = |nanos| Seen { changed: (7, nanos), at, is_ripe: false };
        assert!(seen(4_000_000).ripens((7, 4_000_000), at + MIN_CHANGE_DISTANCE));
        assert!(
            !seen(4_000_000).ripens((7, 4_000_000), at + MIN_CHANGE_DISTANCE / 2),
            "the next change may have the same time"
        );
        assert!(!seen(4_000_000).ripens((7, 8_000_000), at + MIN_CHANGE_DISTANCE), "it was changed");
        assert!(!seen(0).ripens((7, 0), at + Duration::from_secs(9)), "whole seconds are too coarse");
    }
}
