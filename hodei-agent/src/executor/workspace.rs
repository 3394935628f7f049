//! The directories that jobs run in.

use std::ffi::OsStr;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hodei_core::job::FailureCause;
use rustix::fs::{Mode, OFlags};

use super::Job;
use super::blocking::blocking;
use super::leftovers::{PREFIX, name_of};
use super::mounts;
use super::tree::Marks;

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

/// Makes the workspaces of a worker.
#[derive(Debug, Default)]
pub(super) struct Maker {
    workspaces: Workspaces,
    spares: Arc<Mutex<Spares>>,
}

/// Directories that jobs left as they found them, for the next jobs while others run: on a file system with a journal,
/// to make one and to remove it takes four times what a new name takes (docs/decisions/0009).
#[derive(Debug, Default)]
struct Spares {
    running: usize,
    dirs: Vec<PathBuf>,
}

impl Maker {
    pub(super) fn new(workspaces: Workspaces) -> Self {
        Self { workspaces, spares: Arc::default() }
    }

    /// Makes that of an attempt; `None` when it is to have none.
    ///
    /// # Errors
    /// [`FailureCause::Io`]: it is not the job's doing.
    pub(super) fn make(&self, marks: &Marks, job: &Job) -> Result<Option<Workspace>, FailureCause> {
        let spec = &job.spec;
        let is_kept = spec.keep_workspace();
        let needs_one = is_kept
            || spec.working_dir().is_some()
            || !spec.inputs().is_empty()
            || !spec.outputs().is_empty();
        if self.workspaces.only_if_needed && !needs_one {
            return Ok(None);
        }
        // What is kept is no leftover, whoever is killed.
        let name = if is_kept {
            format!("{PREFIX}kept-{}.{}", job.attempt.job, job.attempt.number)
        } else {
            name_of(marks, job.attempt)
        };
        // In the job it means the same, wherever that goes.
        let base = &self.workspaces.dir;
        let base = std::path::absolute(base).unwrap_or_else(|_| base.clone());
        let dir = base.join(name);
        let user = User::new(self.spares.clone());
        if user.take_spare().is_some_and(|spare| std::fs::rename(spare, &dir).is_ok()) {
            return Ok(Some(Workspace { dir, stays: is_kept, user }));
        }
        let make = || DirBuilder::new().mode(0o700).create(&dir);
        let made = make().or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => std::fs::create_dir_all(&base).and_then(|()| make()),
            _ => Err(error),
        });
        let failed =
            |error| FailureCause::Io(format!("the workspace {} cannot be made: {error}", dir.display()));
        made.map_err(failed)?;
        Ok(Some(Workspace { dir, stays: is_kept, user }))
    }
}

/// The workspace of one attempt. Dropped, it is gone unless it is kept.
#[derive(Debug)]
pub(super) struct Workspace {
    dir: PathBuf,
    /// It is kept, or it is a spare one.
    stays: bool,
    user: User,
}

impl Workspace {
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes it, a large one beside what else runs. Dropped before its end, that goes on.
    pub(super) async fn remove(mut self) {
        if self.stays {
            return;
        }
        if is_as_made(&self.dir) {
            self.user.give_spare(std::mem::take(&mut self.dir));
            self.stays = true;
        } else {
            blocking(move || drop(self)).await;
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !self.stays {
            remove_tree(&self.dir);
        }
    }
}

/// One who has a workspace. With the last of them the spare ones go.
#[derive(Debug)]
struct User(Arc<Mutex<Spares>>);

impl User {
    fn new(spares: Arc<Mutex<Spares>>) -> Self {
        lock(&spares).running += 1;
        Self(spares)
    }

    fn take_spare(&self) -> Option<PathBuf> {
        lock(&self.0).dirs.pop()
    }

    fn give_spare(&self, dir: PathBuf) {
        lock(&self.0).dirs.push(dir);
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let unused = {
            let mut spares = lock(&self.0);
            spares.running -= 1;
            if spares.running == 0 { std::mem::take(&mut spares.dirs) } else { Vec::new() }
        };
        unused.iter().for_each(|dir| remove_tree(dir));
    }
}

/// A panic of another leaves nothing half done.
fn lock(spares: &Mutex<Spares>) -> std::sync::MutexGuard<'_, Spares> {
    spares.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether it is still this directory, empty and with the rights that it was made with.
fn is_as_made(dir: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let is = || -> rustix::io::Result<bool> {
        let opened = rustix::fs::open(dir, flags, Mode::empty())?;
        let rights = Mode::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode);
        let mut entries = rustix::fs::Dir::new(opened)?;
        let is_empty = entries
            .all(|entry| entry.is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b"..")));
        Ok(rights == Mode::RWXU && is_empty)
    };
    is().unwrap_or(false)
}

/// Removes all that have such a name and are this user's own: the directory may be everybody's.
pub(super) fn remove_all(dir: &Path, is_left: impl Fn(&OsStr) -> bool) {
    let own = rustix::process::geteuid().as_raw();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_own = || entry.metadata().is_ok_and(|about| about.is_dir() && about.uid() == own);
        if is_left(&entry.file_name()) && is_own() {
            remove_tree(&entry.path());
        }
    }
}

/// Links are removed, never followed. A job may have taken its own rights to a directory away.
/// What it mounted is no part of it, and is taken off first.
fn remove_tree(dir: &Path) {
    // Most are empty.
    let removed = std::fs::remove_dir(dir).or_else(|_| {
        mounts::detach(dir)?;
        std::fs::remove_dir_all(dir)
    });
    let removed = removed.or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        io::ErrorKind::PermissionDenied => {
            open_up(dir);
            std::fs::remove_dir_all(dir)
        }
        _ => Err(error),
    });
    if let Err(error) = removed {
        tracing::error!(%error, dir = %dir.display(), "a workspace cannot be removed");
    }
}

fn open_up(dir: &Path) {
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        let _ = std::fs::set_permissions(&dir, Permissions::from_mode(0o700));
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        left.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
}
