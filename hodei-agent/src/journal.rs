//! The journal: a file with the attempts that an agent started. It outlives the agent and proves that all others never
//! started.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hodei_core::id::{AttemptId, StoreId, WorkerId};
use rustix::fs::{Access, OFlags, access};

use crate::executor::{MEMORY_DIR, Marks, is_memory, prefix_of_provider, worker_of};

/// The end of a journal's name, behind the name prefix of its worker.
const SUFFIX: &str = "begun";
/// Length beyond which the journal is rewritten with the open attempts alone.
const MAX_JOURNAL_BYTES: u64 = 1 << 20;

impl Marks {
    /// Returns the path of the worker's journal: in memory, or beside the workspaces of its jobs if this machine has no
    /// writable memory file system.
    pub fn journal(&self, workspaces: &Path) -> PathBuf {
        self.journal_in(home(workspaces))
    }

    fn journal_in(&self, home: &Path) -> PathBuf {
        home.join(format!("{}{SUFFIX}", self.prefix()))
    }
}

/// Returns the directory of journals. A file in memory lasts as long as a journal proves anything. On a disk, a note
/// waits for the flushes of a database on the same disk: 80 to 230 µs on ext4.
fn home(workspaces: &Path) -> &Path {
    let memory = Path::new(MEMORY_DIR);
    let may_write = || access(memory, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    if is_memory(memory) && may_write() { memory } else { workspaces }
}

/// The journal of an agent. A note survives the agent but not the machine: it is written, not flushed.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Journal {
    /// Creates a journal. Returns `None` and logs a warning if that fails, as it does when the file exists; an old
    /// journal is removed then.
    pub(crate) fn create(path: PathBuf) -> Option<Self> {
        let created = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            let (mut file, boot) = (create(&path)?, boot_line()?);
            file.write_all(boot.as_bytes())?;
            Ok((file, boot.len() as u64))
        });
        match created {
            Ok((file, bytes)) => Some(Self { path, file: Some(file), bytes }),
            Err(error) => {
                // An old journal of this worker lacks the attempts that start from now on.
                if path.symlink_metadata().is_ok_and(|about| is_own(&about)) {
                    let _ = std::fs::remove_file(&path);
                }
                tracing::warn!(path = %path.display(), %error, "cannot create the journal of started attempts: if this agent dies, all of its attempts count as started");
                None
            }
        }
    }

    /// Notes an attempt before it starts. `open` are the attempts that started and are not over. If the note fails, the
    /// journal is removed, so that no attempt missing from it passes for unstarted.
    pub(crate) fn note(&mut self, attempt: AttemptId, open: impl Iterator<Item = AttemptId>) {
        if self.file.is_none() {
            return;
        }
        let noted =
            if self.bytes > MAX_JOURNAL_BYTES { self.rewrite(attempt, open) } else { self.append(attempt) };
        if let Err(error) = noted {
            tracing::warn!(path = %self.path.display(), %error, "cannot write the journal of started attempts, which is removed");
            self.file = None;
            if let Err(error) = std::fs::remove_file(&self.path) {
                tracing::error!(path = %self.path.display(), %error, "cannot remove an incomplete journal of started attempts: remove the file");
            }
        }
    }

    fn append(&mut self, attempt: AttemptId) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let line = line(attempt);
        self.bytes += line.len() as u64;
        file.write_all(line.as_bytes())
    }

    fn rewrite(&mut self, attempt: AttemptId, open: impl Iterator<Item = AttemptId>) -> io::Result<()> {
        let lines: String = std::iter::once(boot_line()?).chain(open.chain([attempt]).map(line)).collect();
        let new = self.path.with_extension(format!("{SUFFIX}-new"));
        let mut file = create(&new)?;
        file.write_all(lines.as_bytes())?;
        std::fs::rename(&new, &self.path)?;
        (self.file, self.bytes) = (Some(file), lines.len() as u64);
        Ok(())
    }
}

/// Returns the first line, which names the boot of the machine: after a loss of power a journal may be incomplete and
/// proves nothing.
fn boot_line() -> io::Result<String> {
    Ok(format!("boot {}\n", std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim()))
}

fn line(attempt: AttemptId) -> String {
    format!("{} {}\n", attempt.job, attempt.number)
}

/// Creates a journal file. `create_new` does not follow a link that another user may have placed.
fn create(path: &Path) -> io::Result<File> {
    File::options().append(true).create_new(true).mode(0o600).open(path)
}

/// Returns the attempts that a dead agent started; `None` if it left no journal or an incomplete one.
pub fn begun_by(marks: &Marks, workspaces: &Path) -> Option<BTreeSet<AttemptId>> {
    read(&marks.journal(workspaces))
}

/// Returns the started attempts of every worker of a provider on this host, except the living ones. Workers without a
/// complete journal are absent.
pub fn begun_by_workers_of(
    owner: StoreId,
    provider: &str,
    workspaces: &Path,
    living: &BTreeSet<WorkerId>,
) -> BTreeMap<WorkerId, BTreeSet<AttemptId>> {
    begun_in(home(workspaces), owner, provider, living)
}

fn begun_in(
    home: &Path,
    owner: StoreId,
    provider: &str,
    living: &BTreeSet<WorkerId>,
) -> BTreeMap<WorkerId, BTreeSet<AttemptId>> {
    let prefix = prefix_of_provider(owner, provider);
    let entries = std::fs::read_dir(home).into_iter().flatten().flatten();
    let journal = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_str().filter(|name| name.starts_with(&prefix) && name.ends_with(SUFFIX))?;
        let worker = worker_of(name).filter(|worker| !living.contains(worker))?;
        Some((worker, read(&entry.path())?))
    };
    entries.filter_map(journal).collect()
}

/// Removes this user's journals whose names match `is_left`.
pub(crate) fn remove_all(workspaces: &Path, is_left: impl Fn(&OsStr) -> bool) {
    let places = [workspaces, Path::new(MEMORY_DIR)];
    for entry in places.into_iter().flat_map(std::fs::read_dir).flatten().flatten() {
        let name = entry.file_name();
        let is_journal = name.to_str().is_some_and(|name| name.contains(SUFFIX));
        if is_journal && is_left(&name) && entry.metadata().is_ok_and(|about| is_own(&about)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn is_own(about: &std::fs::Metadata) -> bool {
    about.is_file() && about.uid() == rustix::process::geteuid().as_raw()
}

fn read(path: &Path) -> Option<BTreeSet<AttemptId>> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    if !is_own(&file.metadata().ok()?) {
        return None;
    }
    let mut text = String::new();
    // Twice the length of the longest journal.
    file.take(MAX_JOURNAL_BYTES * 4).read_to_string(&mut text).ok()?;
    let lines =
        text.strip_prefix(&boot_line().ok()?).filter(|lines| lines.is_empty() || lines.ends_with('\n'))?;
    let attempt = |line: &str| {
        let (job, number) = line.split_once(' ')?;
        Some(AttemptId { job: job.parse().ok()?, number: number.parse().ok()? })
    };
    lines.lines().map(attempt).collect()
}

#[cfg(test)]
mod tests {
    use hodei_core::id::JobId;
    use uuid::Uuid;

    use super::*;

    fn attempt(job: u128, number: u32) -> AttemptId {
        AttemptId { job: JobId::from_uuid(Uuid::from_u128(job)), number }
    }

    fn marks() -> Marks {
        let id = Uuid::from_u128(7);
        Marks::new(StoreId::from_uuid(id), "test", WorkerId::from_uuid(id))
    }

    #[test]
    fn a_journal_lists_the_started_attempts_and_stays_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = marks().journal_in(dir.path());
        assert_eq!(read(&path), None);
        let mut journal = Journal::create(path.clone()).unwrap();
        assert_eq!(read(&path), Some(BTreeSet::new()), "an empty journal proves that no attempt started");
        journal.note(attempt(1, 1), std::iter::empty());
        journal.note(attempt(2, 3), std::iter::empty());
        assert_eq!(read(&path), Some([attempt(1, 1), attempt(2, 3)].into()));
        for number in 0..60_000 {
            journal.note(attempt(3, number), [attempt(2, 3)].into_iter());
        }
        let begun = read(&path).unwrap();
        assert!(
            begun.contains(&attempt(2, 3)) && begun.contains(&attempt(3, 59_999)) && begun.len() < 30_000
        );
        let owner = StoreId::from_uuid(Uuid::from_u128(7));
        let of_owner = |living: &[WorkerId]| {
            begun_in(dir.path(), owner, "test", &living.iter().copied().collect()).len()
        };
        assert_eq!((of_owner(&[]), of_owner(&[WorkerId::from_uuid(Uuid::from_u128(7))])), (1, 0));
        remove_all(dir.path(), |name| name.to_str().unwrap().starts_with("hodei-"));
        assert_eq!(read(&path), None);
    }

    #[test]
    fn a_torn_journal_one_of_another_boot_and_a_link_prove_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = marks().journal_in(dir.path());
        let (boot, job) = (boot_line().unwrap(), JobId::from_uuid(Uuid::from_u128(1)));
        std::fs::write(&path, format!("{boot}{job} 1\n")).unwrap();
        assert_eq!(read(&path), Some([attempt(1, 1)].into()));
        let torn = [
            format!("{boot}{job} 1\n0190"),
            format!("boot of another day\n{job} 1\n"),
            format!("{job} 1\n"),
            String::new(),
        ];
        for text in torn {
            std::fs::write(&path, &text).unwrap();
            assert_eq!(read(&path), None, "{text}");
        }
        assert!(Journal::create(path.clone()).is_none(), "an old journal lacks the attempts that start now");
        assert!(!path.exists(), "it is removed");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert_eq!(read(&path), None);
        assert!(Journal::create(path).is_none());
    }
}
