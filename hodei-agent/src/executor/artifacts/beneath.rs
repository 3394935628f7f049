//! Opens what lies in a workspace, and never what lies elsewhere: no link is followed, at no place of a path.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use hodei_core::artifact::WorkspacePath;
use hodei_core::job::limits;
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

/// What was found.
pub(super) enum Found {
    /// A file, with its length.
    File(std::fs::File, u64),
    /// Names in a directory, in order, as many as may be kept and one more; `None` stands for one that is no UTF-8.
    Directory(Vec<Option<String>>),
    /// A link, a device, a pipe or a socket.
    Other,
}

/// # Errors
/// Of kind `NotFound` when nothing is there.
pub(super) fn open(workspace: &Path, path: &WorkspacePath) -> io::Result<Found> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at: OwnedFd = rustix::fs::open(workspace, flags | OFlags::DIRECTORY, Mode::empty())?;
    let mut names = path.names().peekable();
    while let Some(name) = names.next() {
        // A pipe without a writer would be waited for.
        let how = if names.peek().is_some() { OFlags::DIRECTORY } else { OFlags::NONBLOCK };
        at = match openat(&at, name, flags | how, Mode::empty()) {
            Ok(next) => next,
            // A link; or a device or a socket that nobody listens at.
            Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Ok(Found::Other),
            // A link where a directory should be, or a file.
            Err(Errno::NOTDIR) => {
                let about = rustix::fs::statat(&at, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
                let is_link = FileType::from_raw_mode(about.st_mode) == FileType::Symlink;
                return if is_link { Ok(Found::Other) } else { Err(io::ErrorKind::NotFound.into()) };
            }
            Err(error) => return Err(error.into()),
        };
    }
    let about = fstat(&at)?;
    Ok(match FileType::from_raw_mode(about.st_mode) {
        FileType::RegularFile => Found::File(at.into(), u64::try_from(about.st_size).unwrap_or(0)),
        FileType::Directory => Found::Directory(names_in(&at)?),
        _ => Found::Other,
    })
}

fn names_in(dir: &OwnedFd) -> io::Result<Vec<Option<String>>> {
    let mut names = Vec::new();
    // One more than may be kept is too many, and the two that lead to itself and upwards.
    for entry in rustix::fs::Dir::read_from(dir)?.take(limits::STORED + 3) {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => names.push(String::from_utf8(name.to_vec()).ok()),
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_leads_out() {
        let (workspace, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (root, out) = (workspace.path(), outside.path());
        std::fs::write(out.join("secret"), "secret").unwrap();
        std::fs::create_dir_all(root.join("dir/sub")).unwrap();
        std::fs::write(root.join("dir/sub/a"), "abc").unwrap();
        symlink(out, root.join("link")).unwrap();
        symlink(out.join("secret"), root.join("dir/file")).unwrap();
        symlink("sub", root.join("dir/within")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, root.join("dir/pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let open = |path: &str| super::open(root, &path.parse().unwrap());
        assert!(matches!(open("dir/sub/a"), Ok(Found::File(_, 3))));
        for other in ["link", "link/secret", "dir/file", "dir/within", "dir/within/a", "dir/pipe"] {
            assert!(matches!(open(other), Ok(Found::Other)), "{other}");
        }
        for missing in ["no", "dir/no/a", "dir/sub/a/b"] {
            let error = open(missing).err().map(|error| error.kind());
            assert_eq!(error, Some(io::ErrorKind::NotFound), "{missing}");
        }
        let Ok(Found::Directory(names)) = open("dir") else { panic!("no directory") };
        let names: Vec<_> = names.into_iter().flatten().collect();
        assert_eq!(names, ["file", "pipe", "sub", "within"]);
    }
}
