//! What is mounted in the directories of a job: it may be anybody's, and is not removed with them.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};

/// Takes off whatever is mounted at a directory and below it.
///
/// # Errors
/// When something stays: the directory is to be left alone then.
pub(super) fn detach(dir: &Path) -> io::Result<()> {
    let table = match std::fs::read("/proc/self/mountinfo") {
        Ok(table) => table,
        // Nothing is mounted where nobody is told.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // The system tells paths without links; a link in the place of the directory itself leads to no part of it.
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(()) };
    let dir = parent.canonicalize()?.join(name);
    let points: Vec<PathBuf> = points(&table).filter(|point| point.starts_with(&dir)).collect();
    let stays = |point: &Path, error| {
        io::Error::other(format!("{} is mounted and cannot be taken off: {error}", point.display()))
    };
    // What is taken off a place that others share goes from theirs too.
    for point in &points {
        mount_change(point, MountPropagationFlags::PRIVATE).map_err(|error| stays(point, error))?;
    }
    // The last is on top.
    for point in points.iter().rev() {
        let off = unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        off.map_err(|error| stays(point, error))?;
    }
    Ok(())
}

/// The fifth word of each line, see proc(5).
fn points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescaped)
}

/// Spaces, tabs, newlines and backslashes are written as three octal digits.
fn unescaped(word: &[u8]) -> PathBuf {
    let (mut path, mut rest) = (Vec::with_capacity(word.len()), word);
    while let [first, after @ ..] = rest {
        let digits =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                rest = &after[3..];
            }
            None => {
                path.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn points_are_read_with_their_odd_characters() {
        let table =
            b"22 1 0:21 / /proc rw - proc proc rw\n30 22 0:5 /x /a\\040b\\134c\\9 rw - ext4 /dev/vda rw\n\n";
        let found: Vec<PathBuf> = points(table).collect();
        assert_eq!(found, [Path::new("/proc"), Path::new("/a b\\c\\9")]);
        assert_eq!(unescaped(b"\\04").as_os_str().as_bytes(), b"\\04");
    }
}
