//! Lists the files of a workspace to keep as artifacts.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hodei_core::artifact::{ArtifactOutput, WorkspacePath};
use hodei_core::job::{FailureCause, limits};

use super::NotMoved;
use super::beneath::{self, Entry, Found, Kind};

/// Maximum number of visited entries: most of them may be directories.
const MAX_LISTED_ENTRIES: usize = 10 * limits::STORED;

/// A file or link to keep.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Keepable {
    pub(super) path: WorkspacePath,
    /// The target, if it is a link.
    pub(super) link: Option<String>,
    /// Whether the spec names this path, so that the job fails without it.
    pub(super) is_named: bool,
}

/// The files to keep, in order, and the reasons of those that are skipped.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) keepable: Vec<Keepable>,
    pub(super) notes: Vec<String>,
    names_bytes: usize,
    visited: usize,
}

/// Lists the files to keep. For a `failed` attempt, lists only the outputs that are kept on failure, as far as they
/// exist.
///
/// # Errors
/// [`FailureCause::Artifact`] if an output is missing, unusable or too large. Not for a `failed` attempt.
pub(super) fn list(workspace: &Path, outputs: &[ArtifactOutput], failed: bool) -> Result<Listing, NotMoved> {
    let mut listing = Listing::default();
    for output in outputs.iter().filter(|output| output.on_failure || !failed) {
        match listing.add_output(workspace, &output.path) {
            Ok(()) => {}
            // A failed attempt keeps as much as possible.
            Err(Unlisted::Missing(_)) if failed => {}
            Err(Unlisted::Unusable(why) | Unlisted::TooMuch(why)) if failed => listing.notes.push(why),
            Err(Unlisted::Missing(why) | Unlisted::Unusable(why) | Unlisted::TooMuch(why)) => {
                return Err(FailureCause::Artifact(why).into());
            }
        }
    }
    listing.keepable.sort_unstable();
    listing.keepable.dedup_by(|a, b| a.path == b.path);
    Ok(listing)
}

/// Why an output is not listed.
enum Unlisted {
    Missing(String),
    Unusable(String),
    TooMuch(String),
}

impl Listing {
    fn add_output(&mut self, workspace: &Path, path: &WorkspacePath) -> Result<(), Unlisted> {
        // A path that the spec names may be a link within the workspace.
        let dir = match beneath::open(workspace, path, true) {
            Ok(Found::File(..)) => return self.keep(path.clone(), None, true),
            Ok(Found::Directory(dir)) => dir,
            Ok(Found::Link) => {
                return Err(Unlisted::Unusable(format!("`{path}` is a link that is not followed")));
            }
            Ok(Found::Other(what)) => return Err(Unlisted::Unusable(format!("`{path}` is {what}"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Unlisted::Missing(format!("the job left no `{path}`")));
            }
            Err(error) => return Err(Unlisted::Unusable(why_not(path, &error))),
        };
        let mut left = Vec::new();
        self.add_entries(workspace, path, &dir, &mut left)?;
        while let Some(path) = left.pop() {
            match beneath::open(workspace, &path, false) {
                Ok(Found::Directory(dir)) => self.add_entries(workspace, &path, &dir, &mut left)?,
                Ok(_) => {}
                Err(error) => self.notes.push(why_not(&path, &error)),
            }
        }
        Ok(())
    }

    fn add_entries(
        &mut self,
        workspace: &Path,
        path: &WorkspacePath,
        dir: &std::os::fd::OwnedFd,
        left: &mut Vec<WorkspacePath>,
    ) -> Result<(), Unlisted> {
        let entries = match beneath::entries(dir, MAX_LISTED_ENTRIES) {
            Ok(entries) => entries,
            Err(error) => {
                self.notes.push(why_not(path, &error));
                return Ok(());
            }
        };
        self.visited += entries.len();
        if self.visited > MAX_LISTED_ENTRIES {
            let why =
                format!("the outputs have more than {MAX_LISTED_ENTRIES} files and directories: keep fewer");
            return Err(Unlisted::TooMuch(why));
        }
        for Entry { name, kind } in entries {
            let within = name.to_str().and_then(|name| path.join(name).ok());
            let Some(within) = within else {
                let shown: String = name.to_string_lossy().chars().take(64).collect();
                self.notes.push(format!(
                    "`{path}/{shown}` has a name that is not UTF-8, or a path that is too long"
                ));
                continue;
            };
            match kind {
                Kind::File => self.keep(within, None, false)?,
                Kind::Directory => left.push(within),
                Kind::Link(target) => match inside(workspace, &within, &target) {
                    Some(target) => self.keep(within, Some(target), false)?,
                    None => self.notes.push(format!("`{within}` is a link that leads out of the workspace")),
                },
                Kind::Other(what) => self.notes.push(format!("`{within}` is {what}")),
            }
        }
        Ok(())
    }

    fn keep(&mut self, path: WorkspacePath, link: Option<String>, is_named: bool) -> Result<(), Unlisted> {
        self.names_bytes += path.as_str().len();
        let too_much = if self.keepable.len() >= limits::STORED {
            format!("the outputs have more than {} files", limits::STORED)
        } else if self.names_bytes > limits::STORED_NAMES_BYTES {
            format!("the names of the output files have more than {} bytes", limits::STORED_NAMES_BYTES)
        } else {
            self.keepable.push(Keepable { path, link, is_named });
            return Ok(());
        };
        Err(Unlisted::TooMuch(format!("{too_much}: keep fewer files or an archive of them")))
    }
}

/// Returns the target of a link relative to the link; `None` if it leads out of the workspace.
fn inside(workspace: &Path, link: &WorkspacePath, target: &OsString) -> Option<String> {
    let target = match Path::new(target).strip_prefix(workspace) {
        Ok(below) => {
            let up = "../".repeat(link.names().count() - 1);
            format!("{up}{}", below.to_str()?)
        }
        Err(_) => std::str::from_utf8(target.as_bytes()).ok()?.to_owned(),
    };
    let target = if target.is_empty() { ".".to_owned() } else { target };
    link.may_lead_to(&target).then_some(target)
}

pub(super) fn why_not(path: &WorkspacePath, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("`{path}` no longer exists"),
        io::ErrorKind::CrossesDevices => format!("`{path}` leads out of the workspace"),
        _ => format!("`{path}` cannot be read: {error}"),
    }
}
