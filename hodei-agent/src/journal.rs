//! Which attempts an agent began, in a file that outlives it: the proof that the others never began.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hodei_core::id::{AttemptId, StoreId, WorkerId};
use rustix::fs::{Access, OFlags, access};

use crate::executor::{MEMORY, Marks, is_memory, prefix_of_provider, worker_of};

/// How its name ends, behind what all names of a worker begin with.
const SUFFIX: &str = "begun";
/// It is written anew, with what is not over, when it is longer.
const LONGEST: u64 = 1 << 20;

impl Marks {
    /// Where the agent of the worker notes what it begins: in memory, or where this machine has none to write to, beside
    /// the workspaces of its jobs.
    pub fn journal(&self, workspaces: &Path) -> PathBuf {
        self.journal_in(home(workspaces))
    }

    fn journal_in(&self, home: &Path) -> PathBuf {
        home.join(format!("{}{SUFFIX}", self.prefix()))
    }
}

/// Memory lasts as long as a journal proves anything. On a disk a note waits for the flushes of a database beside it: 80 to
/// 230 µs on ext4.
fn home(workspaces: &Path) -> &Path {
    let memory = Path::new(MEMORY);
    let may_write = || access(memory, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    if is_memory(memory) && may_write() { memory } else { workspaces }
}

/// The journal of an agent. What is written is in the hands of the system: it survives the agent, not the machine.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Journal {
    /// A new journal; `None`, with a line in the log, where none can be made. An earlier one of the name is removed.
    pub(crate) fn create(path: PathBuf) -> Option<Self> {
        let created = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            let (mut file, boot) = (create(&path)?, boot_line()?);
            file.write_all(boot.as_bytes())?;
            Ok((file, boot.len() as u64))
        });
        match created {
            Ok((file, bytes)) => Some(Self { path, file: Some(file), bytes }),
            Err(error) => {
                // An earlier one of this worker lacks what begins from here on.
                if path.symlink_metadata().is_ok_and(|about| is_own(&about)) {
                    let _ = std::fs::remove_file(&path);
                }
                tracing::warn!(path = %path.display(), %error, "what begins is not noted: should this agent die, all may have");
                None
            }
        }
    }

    /// Notes an attempt before it begins; `open` are those that began and are not over. When it cannot be noted, the
    /// journal goes: what it lacks must not pass for unstarted.
    pub(crate) fn note(&mut self, attempt: AttemptId, open: impl Iterator<Item = AttemptId>) {
        if self.file.is_none() {
            return;
        }
        let noted = if self.bytes > LONGEST { self.rewrite(attempt, open) } else { self.append(attempt) };
        if let Err(error) = noted {
            tracing::warn!(path = %self.path.display(), %error, "what begins is not noted any more");
            self.file = None;
            if let Err(error) = std::fs::remove_file(&self.path) {
                tracing::error!(path = %self.path.display(), %error, "a journal that is not whole cannot be removed");
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

/// The first line, which names the boot of the machine: what a loss of power took away of a journal proves nothing.
fn boot_line() -> io::Result<String> {
    Ok(format!("boot {}\n", std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim()))
}

fn line(attempt: AttemptId) -> String {
    format!("{} {}\n", attempt.job, attempt.number)
}

/// Never through a link of somebody else.
fn create(path: &Path) -> io::Result<File> {
    File::options().append(true).create_new(true).mode(0o600).open(path)
}

/// The attempts that a dead agent began; `None` where it left no journal, or one that is not whole.
pub fn begun_by(marks: &Marks, workspaces: &Path) -> Option<BTreeSet<AttemptId>> {
    read(&marks.journal(workspaces))
}

/// The same of every worker of a provider on this host, but for those that live.
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

/// Removes the journals with these names.
pub(crate) fn remove_all(workspaces: &Path, is_left: impl Fn(&OsStr) -> bool) {
    let places = [workspaces, Path::new(MEMORY)];
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
    // Twice as long as it ever is.
    file.take(LONGEST * 4).read_to_string(&mut text).ok()?;
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
    fn a_journal_tells_what_began_and_stays_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = marks().journal_in(dir.path());
        assert_eq!(read(&path), None);
        let mut journal = Journal::create(path.clone()).unwrap();
        assert_eq!(read(&path), Some(BTreeSet::new()), "nothing began, and that is proven");
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
    fn a_journal_that_is_torn_of_another_boot_or_a_link_proves_nothing() {
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
        assert!(Journal::create(path.clone()).is_none(), "an earlier one lacks what begins now");
        assert!(!path.exists(), "and goes");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert_eq!(read(&path), None);
        assert!(Journal::create(path).is_none());
    }
}
