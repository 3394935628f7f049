//! Finds the program of a job.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hodei_core::job::FailureCause;

/// Finds a program as `execvp` would: a bare name on the PATH, a path with a slash relative to `dir`.
///
/// The agent resolves it itself, since the standard library would fork for a bare name.
///
/// # Errors
/// [`FailureCause::CommandNotFound`], or [`FailureCause::PermissionDenied`] if only files without execute permission
/// were found.
pub(in crate::executor) fn resolve(program: &str, path: &OsStr, dir: &Path) -> Result<PathBuf, FailureCause> {
    let mut denied = None;
    let is_named = program.contains('/');
    let mut look = |candidate: PathBuf| {
        let found = std::fs::metadata(&candidate).ok()?;
        // A directory on the PATH is not a program without permission.
        if found.is_dir() && !is_named {
            return None;
        }
        if found.is_file() && found.permissions().mode() & 0o111 != 0 {
            return Some(candidate);
        }
        denied.get_or_insert(candidate);
        None
    };
    let found = if is_named {
        look(dir.join(program))
    } else {
        std::env::split_paths(path).find_map(|entry| look(dir.join(entry).join(program)))
    };
    match (found, denied) {
        (Some(program), _) => Ok(program),
        (None, Some(file)) => Err(FailureCause::PermissionDenied(file.display().to_string())),
        (None, None) => Err(FailureCause::CommandNotFound(program.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_execvp_would() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tool");
        std::fs::write(&file, "").unwrap();
        let path = OsStr::new("/nowhere:/bin");
        assert_eq!(resolve("sh", path, dir.path()).unwrap(), Path::new("/bin/sh"));
        assert!(matches!(resolve("no-such-tool", path, dir.path()), Err(FailureCause::CommandNotFound(_))));
        std::fs::create_dir_all(dir.path().join("first/tool")).unwrap();
        let first = dir.path().join("first");
        assert!(matches!(
            resolve("tool", first.as_os_str(), dir.path()),
            Err(FailureCause::CommandNotFound(_))
        ));
        assert!(matches!(resolve("./tool", path, dir.path()), Err(FailureCause::PermissionDenied(_))));
        assert!(matches!(
            resolve("tool", dir.path().as_os_str(), dir.path()),
            Err(FailureCause::PermissionDenied(_))
        ));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(resolve("./tool", path, dir.path()).unwrap(), dir.path().join("./tool"));
    }
}
