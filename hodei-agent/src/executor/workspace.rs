//! The directories that jobs run in.

use std::ffi::OsStr;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hodei_core::job::FailureCause;

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

impl Workspaces {
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
        if self.only_if_needed && !needs_one {
            return Ok(None);
        }
        // What is kept is no leftover, whoever is killed.
        let name = if is_kept {
            format!("{PREFIX}kept-{}.{}", job.attempt.job, job.attempt.number)
        } else {
            name_of(marks, job.attempt)
        };
        // In the job it means the same, wherever that goes.
        let base = std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone());
        let dir = base.join(name);
        let make = || DirBuilder::new().mode(0o700).create(&dir);
        let made = make().or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => std::fs::create_dir_all(&base).and_then(|()| make()),
            _ => Err(error),
        });
        let failed =
            |error| FailureCause::Io(format!("the workspace {} cannot be made: {error}", dir.display()));
        made.map_err(failed)?;
        Ok(Some(Workspace { dir, is_kept }))
    }
}

/// The workspace of one attempt. Dropped, it is gone unless it is kept.
#[derive(Debug)]
pub(super) struct Workspace {
    dir: PathBuf,
    is_kept: bool,
}

impl Workspace {
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes it, a large one beside what else runs. Dropped before its end, that goes on.
    pub(super) async fn remove(self) {
        if !self.is_kept && std::fs::remove_dir(&self.dir).is_err() {
            blocking(move || drop(self)).await;
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !self.is_kept {
            remove_tree(&self.dir);
        }
    }
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
