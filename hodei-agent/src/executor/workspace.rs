//! The directories that jobs run in.

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

/// Where jobs have their workspaces: directories of their own, which go with them.
#[derive(Debug, Clone)]
pub struct Workspaces {
    /// In directories there, by default in that for temporary files.
    pub dir: PathBuf,
    /// Whether a job that needs none runs where the agent does, as a child process would: one without inputs, outputs
    /// and a working directory. By default each has one.
    pub only_if_needed: bool,
}

impl Default for Workspaces {
    fn default() -> Self {
        Self { dir: std::env::temp_dir(), only_if_needed: false }
    }
}

/// Makes the workspaces of a worker, and has those that wait for the next job (docs/decisions/0009).
#[derive(Debug)]
pub(in crate::executor) struct WorkspacePool {
    workspaces: Workspaces,
    shelf: Arc<Shelf>,
    /// Directories for temporary files.
    temps: Arc<Shelf>,
}

/// Directories of one kind that wait for the next job.
#[derive(Debug)]
struct Shelf {
    clock: Arc<dyn Clock>,
    spares: Mutex<Spares>,
}

#[derive(Debug, Default)]
struct Spares {
    /// Those that were made so far.
    made: u64,
    dirs: Vec<Dir>,
}

/// A directory, which another may have been put in the place of.
#[derive(Debug, Default)]
struct Dir {
    path: PathBuf,
    which: Which,
    seen: Option<Seen>,
}

/// A directory by its file system and its number there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Which {
    device: u64,
    inode: u64,
}

/// When a directory was seen to be as it was made, and the time of its last change then (see inode(7)).
#[derive(Debug, Clone, Copy)]
struct Seen {
    changed: (i64, i64),
    /// By the monotonic clock: the first time that it had that time of change.
    at: Duration,
    /// A change since then has another time, so a look at that time is enough.
    is_ripe: bool,
}

/// Two changes further apart have different times where a file system counts them by ticks, of 10 ms at most.
const CHANGES_APART: Duration = Duration::from_millis(50);

impl WorkspacePool {
    pub(in crate::executor) fn new(clock: Arc<dyn Clock>, workspaces: Workspaces) -> Self {
        let shelf = || Arc::new(Shelf { clock: clock.clone(), spares: Mutex::default() });
        Self { workspaces, shelf: shelf(), temps: shelf() }
    }

    /// Makes that of an attempt; `None` when it is to have none.
    ///
    /// # Errors
    /// [`FailureCause::Io`] or a shortage: it is not the job's doing.
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
            // A kept one is no leftover of a killed agent.
            let name = || format!("{PREFIX}kept-{}.{}", job.attempt.job, job.attempt.number);
            let dir = self.make_dir("the workspace", 1, name)?;
            return Ok(Some(Workspace { dir, stays: true, shelf: shelf.clone() }));
        }
        let name = || format!("{}workspace-{}", marks.prefix(), shelf.number());
        let dir = shelf.spare().map_or_else(|| self.make_dir("the workspace", TRIES, name), Ok)?;
        Ok(Some(Workspace { dir, stays: false, shelf: shelf.clone() }))
    }

    /// Makes a directory for the temporary files of an attempt, or for its script.
    ///
    /// # Errors
    /// [`FailureCause::Io`] or a shortage: it is not the job's doing.
    pub(in crate::executor) fn make_temp(&self, marks: &Marks) -> Result<Workspace, NotStarted> {
        let shelf = &self.temps;
        let name = || format!("{}{}", marks.temp_prefix(), shelf.number());
        let what = "the directory for temporary files";
        let dir = shelf.spare().map_or_else(|| self.make_dir(what, TRIES, name), Ok)?;
        Ok(Workspace { dir, stays: false, shelf: shelf.clone() })
    }

    /// Makes a directory by the first of so many names that is free.
    fn make_dir(&self, what: &str, mut tries: usize, name: impl Fn() -> String) -> Result<Dir, NotStarted> {
        // In the job it means the same, wherever that goes.
        let base = &self.workspaces.dir;
        let base = std::path::absolute(base).unwrap_or_else(|_| base.clone());
        loop {
            tries -= 1;
            let path = base.join(name());
            match make(&base, &path) {
                Ok(which) => return Ok(Dir::new(path, which)),
                // Of an executor before this one.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries > 0 => {}
                Err(error) => {
                    let what = format!("{what} {} cannot be made", path.display());
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
        // A panic of another leaves nothing half done.
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That of the next directory which is made.
    fn number(&self) -> u64 {
        let mut spares = self.spares();
        spares.made += 1;
        spares.made
    }

    /// One that is still there: a clean-up may have taken some away.
    fn spare(&self) -> Option<Dir> {
        loop {
            let mut dir = self.spares().dirs.pop()?;
            if dir.is_there_at(self.clock.monotonic()) {
                return Some(dir);
            }
        }
    }
}

/// Names that are tried, of which all but the last may be taken.
const TRIES: usize = 1000;

/// Returns which directory it is.
fn make(base: &Path, path: &Path) -> io::Result<Which> {
    let make = || DirBuilder::new().mode(0o700).create(path);
    make().or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => std::fs::create_dir_all(base).and_then(|()| make()),
        // A job may have taken the rights to it away.
        io::ErrorKind::PermissionDenied if open_again(base).is_ok() => make(),
        _ => Err(error),
    })?;
    Ok(Which::of(&std::fs::symlink_metadata(path)?))
}

/// Gives this user the rights to a directory of its own back.
fn open_again(base: &Path) -> io::Result<()> {
    let about = std::fs::symlink_metadata(base)?;
    if !about.is_dir() || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    std::fs::set_permissions(base, Permissions::from_mode(about.mode() | 0o700))
}

/// The workspace of one attempt. Dropped, it is gone unless it is kept.
#[derive(Debug)]
pub(in crate::executor) struct Workspace {
    dir: Dir,
    /// It is kept, or is the next job's.
    stays: bool,
    shelf: Arc<Shelf>,
}

impl Workspace {
    pub(in crate::executor) fn dir(&self) -> &Path {
        &self.dir.path
    }

    /// Makes it anew where it was taken away before its job began; false when it is there.
    pub(in crate::executor) fn make_again(&mut self) -> bool {
        if self.dir.is_there() {
            return false;
        }
        let base = self.dir.path.parent().unwrap_or(&self.dir.path);
        match make(base, &self.dir.path) {
            Ok(which) => {
                (self.dir.which, self.dir.seen) = (which, None);
                true
            }
            Err(error) => {
                tracing::warn!(%error, dir = %self.dir.path.display(), "a workspace cannot be made anew");
                false
            }
        }
    }

    /// Removes it, a large one beside what else runs; or leaves it for the next job, where its own has left nothing in it
    /// and no process that may still come to it. Dropped before its end, that goes on.
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
    /// Whether every change from now on will show in the time of change, which is this now.
    fn ripens(&self, changed: (i64, i64), now: Duration) -> bool {
        // A file system that counts whole seconds has no nanoseconds.
        let is_fine = self.changed.1 != 0;
        is_fine && changed == self.changed && now >= self.at + CHANGES_APART
    }
}

impl Which {
    fn of(about: &Metadata) -> Self {
        Self { device: about.dev(), inode: about.ino() }
    }
}

impl Dir {
    fn new(path: PathBuf, which: Which) -> Self {
        Self { path, which, seen: None }
    }

    fn look(&self) -> Option<Metadata> {
        std::fs::symlink_metadata(&self.path)
            .ok()
            .filter(|about| about.is_dir() && Which::of(about) == self.which)
    }

    fn is_there(&self) -> bool {
        self.look().is_some()
    }

    /// The same, at the time at which a job is given it.
    fn is_there_at(&mut self, now: Duration) -> bool {
        let Some(about) = self.look() else { return false };
        if let Some(seen) = &mut self.seen {
            seen.is_ripe = seen.ripens(changed(&about), now);
        }
        true
    }

    /// Whether it is still there, empty, and with the rights that it was made with.
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
        let is_it = Which { device: about.st_dev, inode: about.st_ino } == self.which
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

/// Removes all that have such a name and are this user's own: the directory may be everybody's.
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
    fn a_time_of_change_is_trusted_where_each_change_has_another() {
        let at = Duration::from_secs(100);
        let seen = |nanos| Seen { changed: (7, nanos), at, is_ripe: false };
        assert!(seen(4_000_000).ripens((7, 4_000_000), at + CHANGES_APART));
        assert!(
            !seen(4_000_000).ripens((7, 4_000_000), at + CHANGES_APART / 2),
            "the next may have the same"
        );
        assert!(!seen(4_000_000).ripens((7, 8_000_000), at + CHANGES_APART), "it was changed");
        assert!(!seen(0).ripens((7, 0), at + Duration::from_secs(9)), "whole seconds are too coarse");
    }
}
