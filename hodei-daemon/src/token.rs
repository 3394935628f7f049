//! The token of a daemon, created at the first start in a file that only its owner can read.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why the token cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token file {} cannot be used: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("the data directory {} cannot be created: {error}", path.display())]
    Dir { path: PathBuf, error: io::Error },
    #[error("all users can write to the data directory {}, and so replace its token: run `chmod o-w {}`, or name a directory in it, which is then created", .0.display(), .0.display())]
    Writable(PathBuf),
    #[error("the token file {} can be read by others: make it private with `chmod 600 {}`", .0.display(), .0.display())]
    Open(PathBuf),
    #[error("the token file {} is empty: remove it, and the next start creates a new one", .0.display())]
    Empty(PathBuf),
}

/// Reads the token of a data directory, or creates it.
pub(crate) fn load_or_make(dir: &Path) -> Result<String, TokenError> {
    let path = dir.join("token");
    let wrap = |error| TokenError::File { path: path.clone(), error };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| TokenError::Dir { path: dir.to_owned(), error })?;
    if std::fs::metadata(dir).map_err(wrap)?.permissions().mode() & 0o002 != 0 {
        return Err(TokenError::Writable(dir.to_owned()));
    }
    if !path.try_exists().map_err(wrap)? {
        make(dir, &path).map_err(wrap)?;
    }
    if std::fs::metadata(&path).map_err(wrap)?.permissions().mode() & 0o077 != 0 {
        return Err(TokenError::Open(path));
    }
    let token = std::fs::read_to_string(&path).map_err(wrap)?.trim().to_owned();
    if token.is_empty() { Err(TokenError::Empty(path)) } else { Ok(token) }
}

/// Creates the token file by a hard link, so that it is complete when it appears. Of daemons that start at the same
/// time, one creates it.
fn make(dir: &Path, path: &Path) -> io::Result<()> {
    let token = new_token()?;
    let new = dir.join(format!("token.{}", token.split_at(16).0));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let made = writeln!(file, "{token}").and_then(|()| file.sync_all());
    let made = made.and_then(|()| std::fs::hard_link(&new, path));
    std::fs::remove_file(&new)?;
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn new_token() -> io::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let token = load_or_make(dir.path()).unwrap();
        assert_eq!((token.len(), load_or_make(dir.path()).unwrap()), (64, token));
        let path = dir.path().join("token");
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "no other file remains");
        mode(0o644);
        assert!(load_or_make(dir.path()).unwrap_err().to_string().contains("chmod 600"));
        mode(0o600);
        let open =
            |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        open(0o777);
        assert!(load_or_make(dir.path()).unwrap_err().to_string().contains("chmod o-w"));
        open(0o770);
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(load_or_make(dir.path()), Err(TokenError::Empty(_))));
    }

    #[test]
    fn daemons_that_start_together_share_one_token() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let start = std::sync::Barrier::new(8);
            let tokens: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
                let load = || {
                    start.wait();
                    load_or_make(dir.path()).unwrap()
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(tokens.len(), 1);
        }
    }
}
