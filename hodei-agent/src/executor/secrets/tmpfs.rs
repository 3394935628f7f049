//! Secrets as files in memory, which never touch a disk.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hodei_core::id::AttemptId;
use hodei_core::secret::{SecretName, SecretValue};
use rustix::fs::{FsWord, OFlags};
use rustix::mount::{MountFlags, mount};

use crate::executor::host::marks::Marks;
use crate::executor::host::marks::name_of;
use crate::executor::host::removal::remove_tree;

/// The secret files of one attempt, in a directory that only its user can enter. They are wiped when this is dropped.
#[derive(Debug)]
pub(super) struct TmpfsFiles {
    dir: PathBuf,
}

/// See statfs(2).
const TMPFS_MAGIC: FsWord = 0x0102_1994;
const RAMFS_MAGIC: FsWord = 0x8584_58f6;

/// Mount point of a memory file system on most machines and in containers.
pub(crate) const MEMORY_DIR: &str = "/dev/shm";

/// Returns the directories that may be in memory.
fn places() -> impl Iterator<Item = PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    [MEMORY_DIR.into()].into_iter().chain(own).chain(["/run".into()])
}

/// Returns whether a directory is in memory.
pub(crate) fn is_memory(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| matches!(stat.f_type, TMPFS_MAGIC | RAMFS_MAGIC))
}

impl TmpfsFiles {
    /// Writes each secret to a file of its name.
    ///
    /// # Errors
    /// A message with the reasons on this machine.
    pub(super) fn write(
        marks: &Marks,
        attempt: AttemptId,
        secrets: &[(&SecretName, &SecretValue)],
    ) -> Result<Self, String> {
        let name = name_of(marks, attempt);
        let mut missed = Vec::new();
        for place in places().filter(|place| is_memory(place)) {
            let files = Self::make(place.join(&name));
            let written = files.and_then(|files| {
                secrets.iter().try_for_each(|(name, value)| files.add(name, value)).map(|()| files)
            });
            match written {
                Ok(files) => return Ok(files),
                Err(error) => missed.push(format!("{}: {error}", place.display())),
            }
        }
        if missed.is_empty() {
            return Err("this machine has no file system in memory at /dev/shm or /run".into());
        }
        Err(missed.join("; "))
    }

    /// Creates a directory in memory: a separate file system, which may exclude swap, if this process may mount one.
    fn make(dir: PathBuf) -> io::Result<Self> {
        // Leftovers of an earlier run of the same attempt.
        wipe(&dir);
        DirBuilder::new().mode(0o700).create(&dir)?;
        let files = Self { dir };
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let own = |options: &std::ffi::CStr| mount("hodei", &files.dir, "tmpfs", flags, Some(options));
        // Only newer kernels support `noswap`.
        if own(c"mode=0700,size=16m,noswap").or_else(|_| own(c"mode=0700,size=16m")).is_err() {
            tracing::debug!(dir = %files.dir.display(), "secrets are in memory that the machine may swap out");
        }
        Ok(files)
    }

    fn add(&self, name: &SecretName, value: &SecretValue) -> io::Result<()> {
        let path = self.dir.join(name.as_str());
        let mut file = File::options().write(true).create_new(true).mode(0o400).open(path)?;
        file.write_all(value.expose())
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for TmpfsFiles {
    fn drop(&mut self) {
        wipe(&self.dir);
    }
}

/// Wipes all directories whose names match.
pub(in crate::executor) fn wipe_all(is_left: impl Fn(&OsStr) -> bool) {
    for place in places() {
        let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
        entries.filter(|entry| is_left(&entry.file_name())).for_each(|entry| wipe(&entry.path()));
    }
}

/// Overwrites and removes a directory of secret files, if it belongs to this user: the parent directories are shared,
/// and others may place links there under such a name. The job may have granted others access, or removed that of its
/// own user.
fn wipe(dir: &Path) {
    let is_own = |about: &Metadata| about.is_dir() && about.uid() == rustix::process::geteuid().as_raw();
    if !std::fs::symlink_metadata(dir).is_ok_and(|about| is_own(&about)) {
        return;
    }
    // From here on only this user can change its content.
    if let Err(error) = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)) {
        tracing::debug!(%error, "cannot change the permissions of a directory of secrets");
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if let Err(error) = overwrite(&entry.path()) {
            tracing::debug!(%error, "a file of secrets cannot be overwritten");
        }
    }
    // The mount is detached: a process that still uses it keeps it, and no other process finds it.
    remove_tree(dir);
}

fn overwrite(path: &Path) -> io::Result<()> {
    let about = std::fs::symlink_metadata(path)?;
    // The job may have replaced it by a link, or added links to it.
    if !about.is_file() || about.nlink() > 1 {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let no_follow = OFlags::NOFOLLOW.bits() as i32;
    let mut file = File::options().write(true).custom_flags(no_follow).open(path)?;
    io::copy(&mut io::Read::take(io::repeat(0), about.len()), &mut file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hodei_core::id::{JobId, StoreId, WorkerId};
    use uuid::Uuid;

    use super::*;
    use crate::executor::leftovers::{clear_leftovers_of, clear_leftovers_of_owner};

    fn attempt(number: u32) -> AttemptId {
        AttemptId { job: JobId::from_uuid(Uuid::from_u128(3)), number }
    }

    fn marks(worker: u128) -> Marks {
        let owner = StoreId::from_uuid(Uuid::from_u128(u128::from(std::process::id())));
        Marks::new(owner, "tests of secrets", WorkerId::from_uuid(Uuid::from_u128(worker)))
    }

    fn write(worker: u128, number: u32) -> TmpfsFiles {
        let (name, value) = ("db".parse().unwrap(), SecretValue::new(b"hunter22".to_vec()).unwrap());
        TmpfsFiles::write(&marks(worker), attempt(number), &[(&name, &value)]).unwrap()
    }

    #[test]
    fn files_are_private_and_in_memory_and_removed_when_dropped() {
        let files = write(1, 1);
        let file = files.dir().join("db");
        assert_eq!(std::fs::read(&file).unwrap(), b"hunter22");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(files.dir()), mode(&file)), (0o700, 0o400));
        assert!(is_memory(&file));
        let dir = files.dir().to_owned();
        drop(files);
        assert!(!dir.exists());
    }

    #[test]
    fn secrets_are_wiped_with_any_permissions_of_the_directory() {
        for (number, mode) in [(1, 0o755), (2, 0o777), (3, 0)] {
            let files = write(8, number);
            let dir = files.dir().to_owned();
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
            drop(files);
            assert!(!dir.exists(), "{mode:o}");
        }
    }

    #[test]
    fn links_of_others_are_not_followed() {
        let elsewhere = tempfile::tempdir().unwrap();
        let file = elsewhere.path().join("precious");
        std::fs::write(&file, "precious").unwrap();
        let link = Path::new("/dev/shm").join(name_of(&marks(7), attempt(1)));
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        clear_leftovers_of(&marks(7), Path::new("/nowhere"));
        let kept = std::fs::read(&file).unwrap();
        std::fs::remove_file(&link).unwrap();
        assert_eq!(kept, b"precious");
    }

    #[test]
    fn secrets_left_by_a_killed_agent_are_wiped_by_worker_and_by_owner() {
        let left: Vec<PathBuf> = [(2, 1), (2, 2), (3, 1)]
            .into_iter()
            .map(|(worker, number)| std::mem::ManuallyDrop::new(write(worker, number)).dir.clone())
            .collect();
        // The same attempt again, as after a restart of the agent.
        drop(write(2, 2));
        clear_leftovers_of(&marks(2), Path::new("/nowhere"));
        assert_eq!(left.iter().map(|dir| dir.exists()).collect::<Vec<_>>(), [false, false, true]);
        let owner = StoreId::from_uuid(Uuid::from_u128(u128::from(std::process::id())));
        clear_leftovers_of_owner(owner, "another provider", Path::new("/nowhere"), &BTreeSet::new());
        clear_leftovers_of_owner(
            owner,
            "tests of secrets",
            Path::new("/nowhere"),
            &BTreeSet::from([WorkerId::from_uuid(Uuid::from_u128(3))]),
        );
        assert!(left[2].exists());
        clear_leftovers_of_owner(owner, "tests of secrets", Path::new("/nowhere"), &BTreeSet::new());
        assert!(!left[2].exists());
    }
}
