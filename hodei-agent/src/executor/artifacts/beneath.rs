//! Opens files inside a workspace and never outside: no link at any place of a path leads out.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use hodei_core::artifact::WorkspacePath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat, statat};
use rustix::io::Errno;

/// An opened entry of the workspace.
#[derive(Debug)]
pub(super) enum Found {
    /// A file, with its length and its permissions.
    File(std::fs::File, u64, u32),
    /// A directory.
    Directory(OwnedFd),
    /// A symbolic link.
    Link,
    /// An entry without content; the text names its kind.
    Other(&'static str),
}

/// An entry of a directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: OsString,
    pub(super) kind: Kind,
}

/// The kind of an entry.
#[derive(Debug)]
pub(super) enum Kind {
    File,
    Directory,
    Link(OsString),
    Other(&'static str),
}

const OPEN_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);

/// Opens the file or directory at a path. Follows a link at the end of the path only if `follows` is set.
///
/// # Errors
/// Of kind `NotFound` if nothing is there, of kind `CrossesDevices` if the path leads out of the workspace.
pub(super) fn open(workspace: &Path, path: &WorkspacePath, follows: bool) -> io::Result<Found> {
    let root: OwnedFd = rustix::fs::open(workspace, OPEN_FLAGS | OFlags::DIRECTORY, Mode::empty())?;
    // Nonblocking: the open of a pipe without a writer would wait.
    let last = OPEN_FLAGS | OFlags::NONBLOCK | if follows { OFlags::empty() } else { OFlags::NOFOLLOW };
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = match openat2(&root, path.as_str(), last, Mode::empty(), inside) {
        // Before Linux 5.6, or in a container that does not allow the call.
        Err(Errno::NOSYS | Errno::PERM) => return open_by_names(root, path),
        opened => opened,
    };
    match opened {
        Ok(opened) => found(opened),
        Err(Errno::LOOP) => Ok(Found::Link),
        // A device without a driver, or a socket.
        Err(Errno::NXIO | Errno::NODEV) => Ok(Found::Other("a socket or a device")),
        Err(Errno::NOTDIR) => Err(io::ErrorKind::NotFound.into()),
        Err(error) => Err(error.into()),
    }
}

/// Opens a path without openat2(2), name by name. Follows no link at all.
fn open_by_names(root: OwnedFd, path: &WorkspacePath) -> io::Result<Found> {
    let (mut at, mut names) = (root, path.names().peekable());
    while let Some(name) = names.next() {
        let how = if names.peek().is_some() { OFlags::DIRECTORY } else { OFlags::NONBLOCK };
        at = match openat(&at, name, OPEN_FLAGS | OFlags::NOFOLLOW | how, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::LOOP) if names.peek().is_none() => return Ok(Found::Link),
            Err(Errno::NXIO | Errno::NODEV) => return Ok(Found::Other("a socket or a device")),
            // A link or a file in place of a directory.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let about = statat(&at, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let is_link = FileType::from_raw_mode(about.st_mode) == FileType::Symlink;
                return Err(if is_link { Errno::XDEV.into() } else { io::ErrorKind::NotFound.into() });
            }
            Err(error) => return Err(error.into()),
        };
    }
    found(at)
}

fn found(opened: OwnedFd) -> io::Result<Found> {
    let about = fstat(&opened)?;
    Ok(match FileType::from_raw_mode(about.st_mode) {
        FileType::RegularFile => {
            let bytes = u64::try_from(about.st_size).unwrap_or(0);
            Found::File(opened.into(), bytes, about.st_mode & 0o777)
        }
        FileType::Directory => Found::Directory(opened),
        other => Found::Other(name_of(other)),
    })
}

fn link(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<OsString> {
    Ok(OsString::from_vec(readlinkat(at, name, Vec::new())?.into_bytes()))
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "neither a file nor a directory",
    }
}

/// Returns the entries of a directory in order, at most `most` plus one.
pub(super) fn entries(dir: &OwnedFd, most: usize) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let name = OsStr::from_bytes(name).to_owned();
        match kind_of(dir.as_fd(), &name, entry.file_type()) {
            Ok(kind) => entries.push(Entry { name, kind }),
            // The entry was removed in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if entries.len() > most {
            break;
        }
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn kind_of(dir: BorrowedFd<'_>, name: &OsStr, told: FileType) -> io::Result<Kind> {
    let kind = match told {
        FileType::Unknown => FileType::from_raw_mode(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
        told => told,
    };
    Ok(match kind {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Link(link(dir, name)?),
        other => Kind::Other(name_of(other)),
    })
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
        let open = |path: &str| super::open(root, &path.parse().unwrap(), false);
        assert!(matches!(open("dir/sub/a"), Ok(Found::File(_, 3, _))));
        assert!(
            matches!(open("dir/within/a"), Ok(Found::File(_, 3, _))),
            "a link that stays inside is followed"
        );
        assert!(matches!(open("dir/pipe"), Ok(Found::Other("a named pipe"))));
        for link in ["link", "dir/file", "dir/within"] {
            assert!(matches!(open(link), Ok(Found::Link)), "{link}");
        }
        for (path, expected) in [
            ("link/secret", io::ErrorKind::CrossesDevices),
            ("no", io::ErrorKind::NotFound),
            ("dir/no/a", io::ErrorKind::NotFound),
            ("dir/sub/a/b", io::ErrorKind::NotFound),
        ] {
            let error = open(path).err().map(|error| error.kind());
            assert_eq!(error, Some(expected), "{path}");
        }
        let follow = |path: &str| super::open(root, &path.parse().unwrap(), true);
        assert!(matches!(follow("dir/within"), Ok(Found::Directory(_))));
        assert_eq!(follow("link").unwrap_err().kind(), io::ErrorKind::CrossesDevices);
        let by_names = |path: &str| {
            let root = rustix::fs::open(root, OPEN_FLAGS | OFlags::DIRECTORY, Mode::empty()).unwrap();
            open_by_names(root, &path.parse().unwrap())
        };
        assert!(matches!(by_names("dir/sub/a"), Ok(Found::File(_, 3, _))));
        assert!(matches!(by_names("dir/within"), Ok(Found::Link)));
        for path in ["link/secret", "dir/within/a"] {
            assert_eq!(by_names(path).unwrap_err().kind(), io::ErrorKind::CrossesDevices, "{path}");
        }
        let Ok(Found::Directory(dir)) = open("dir") else { panic!("no directory") };
        let names: Vec<_> = entries(&dir, 10).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["file", "pipe", "sub", "within"]);
        assert_eq!(entries(&dir, 1).unwrap().len(), 2);
    }
}
