//! Writer of the active segment, and the scan of a segment after a crash.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hodei_core::id::AttemptId;
use hodei_core::port::{LogBody, LogEnd, LogError, LogRecord, StoreError};
use tokio::sync::oneshot;

use super::super::DataDir;
use super::cold::{self, ColdSegment};
use super::extents::Log;
use super::frame::{self, Frame, HEADER_BYTES};
use super::index::Index;
use super::{lock, log_error};
use crate::storage::data_dir::place::{FileState, WatchedFile};
use crate::storage::data_dir::reserve::is_full;

/// A write, and the channel for its answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) attempt: AttemptId,
    pub(super) work: Work,
    pub(super) reply: oneshot::Sender<Result<u64, LogError>>,
}

#[derive(Debug)]
pub(super) enum Work {
    Append(Vec<LogRecord>),
    Seal(LogEnd),
    Remove,
}

impl Work {
    /// Returns the size of the write in a segment, in bytes.
    fn bytes(&self) -> usize {
        match self {
            Self::Append(records) => records.iter().map(frame::length).sum(),
            Self::Seal(_) | Self::Remove => HEADER_BYTES,
        }
    }
}

/// Writes the active segment. Only one thread writes at a time; it takes all waiting requests and syncs once.
#[derive(Debug)]
pub(super) struct Writer {
    dir: Arc<DataDir>,
    folder: PathBuf,
    index: Arc<Mutex<Index>>,
    active: Arc<Mutex<Active>>,
    /// Length at which a segment is full.
    segment_bytes: u64,
}

/// The segment that is open for writing.
#[derive(Debug, Clone)]
pub(super) struct Active {
    pub(super) number: u32,
    pub(super) file: Arc<File>,
    watched: Arc<WatchedFile>,
    /// Length of the written frames; any bytes beyond it do not count.
    pub(super) length: u64,
}

/// Maximum size of a batch of ends and gaps that may use the disk reserve.
const MAX_RESERVED_BATCH_BYTES: usize = 4096;

fn has_output(records: &[LogRecord]) -> bool {
    records.iter().any(|record| matches!(record.body, LogBody::Chunk { .. }))
}

pub(super) fn segment_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:08}.log"))
}

impl Writer {
    /// Opens a folder of segments: reads every index file, and scans the last segment.
    pub(super) fn open(dir: Arc<DataDir>, segment_bytes: u64) -> io::Result<(Self, Arc<Mutex<Index>>)> {
        let folder = dir.logs();
        let folder = folder.as_path();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut numbers: Vec<u32> = std::fs::read_dir(folder)?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let last = numbers.pop();
        let mut index = Index::default();
        for number in numbers {
            let path = segment_path(folder, number);
            let cold = match ColdSegment::open(number, &path) {
                // The process died while it closed this segment.
                Err(error) if matches!(error.kind(), NotFound | UnexpectedEof | InvalidData) => {
                    cold::write(&path, &scan(&index, &path)?.logs)?;
                    ColdSegment::open(number, &path)?
                }
                opened => opened?,
            };
            if cold.is_empty() {
                cold::delete(&path)?;
            } else {
                index.cold.insert(number, Arc::new(cold));
            }
        }
        let number = last.unwrap_or(1);
        let path = segment_path(folder, number);
        // The process may have died before it created the next segment.
        let _ = std::fs::remove_file(cold::index_path(&path));
        let file = Arc::new(open_segment(folder, &path)?);
        let Scanned { logs, length } = scan(&index, &path)?;
        index.logs = logs;
        file.set_len(length)?;
        let index = Arc::new(Mutex::new(index));
        let watched = Arc::new(WatchedFile::new(path)?);
        let active = Arc::new(Mutex::new(Active { number, file, watched, length }));
        let folder = folder.to_owned();
        Ok((Self { dir, folder, index: index.clone(), active, segment_bytes }, index))
    }

    pub(super) fn active(&self) -> Active {
        lock(&self.active).clone()
    }

    /// Writes a batch of requests and answers each of them.
    pub(super) fn write(&self, requests: Vec<Request>) {
        let reserve = self.dir.reserve();
        let active = self.active();
        let room = requests.iter().map(|request| request.work.bytes()).sum();
        let (index, start, bytes) = (&*self.index, active.length, Vec::with_capacity(room));
        let mut batch = Batch { index, start, bytes, logs: BTreeMap::new(), removed: Vec::new() };
        let mut must_sync = false;
        let mut answers = Vec::with_capacity(requests.len());
        for Request { attempt, work, reply } in requests {
            let before = batch.bytes.len();
            must_sync |= matches!(work, Work::Remove);
            let answer = match work {
                // The remaining disk space is for ends, and for the gaps before them.
                Work::Append(records) if has_output(&records) && !reserve.is_held() => {
                    Err(StoreError::disk_full().into())
                }
                Work::Append(records) => batch.append(attempt, &records),
                Work::Seal(end) => Ok(batch.seal(attempt, end)),
                Work::Remove => Ok(batch.remove(attempt)),
            };
            // A complete log's end can be derived from its job's end, so it need not be synced.
            let whole = matches!(batch.logs.get(&attempt), Some(log) if log.end == Some(LogEnd::Complete));
            must_sync |= batch.bytes.len() > before && !whole;
            answers.push((reply, answer));
        }
        let store = || self.store(&active, &batch.bytes, must_sync);
        let written = store().or_else(|error| {
            let is_small = batch.bytes.len() <= MAX_RESERVED_BATCH_BYTES;
            let may_help = is_full(&error) && !is_too_long(&error);
            if is_small && may_help && reserve.release() { store() } else { Err(error) }
        });
        let failure = match written {
            Ok(()) => {
                let mut index = lock(&self.index);
                index.logs.extend(batch.logs);
                index.logs.retain(|attempt, _| !batch.removed.contains(attempt));
                None
            }
            Err(error) => Some(error),
        };
        for (reply, answer) in answers {
            let answer = match &failure {
                Some(error) if answer.is_ok() => Err(log_error(error)),
                _ => answer,
            };
            let _ = reply.send(answer);
        }
        if let Err(error) = self.roll_if_full(failure.as_ref().is_some_and(is_too_long)) {
            tracing::warn!(%error, "a log segment cannot be closed; it keeps growing");
        }
    }

    fn store(&self, active: &Active, bytes: &[u8], must_sync: bool) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if active.length + bytes.len() as u64 > u64::from(u32::MAX) {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the log segment is full and cannot be closed",
            ));
        }
        let written = active
            .file
            .write_all_at(bytes, active.length)
            .and_then(|()| if must_sync { active.file.sync_data() } else { Ok(()) });
        // The next start would not find a removed file, so nothing in it counts as stored.
        if active.watched.look(u64::MAX) == FileState::Gone {
            return Err(self.save(active));
        }
        match written {
            Ok(()) => lock(&self.active).length += bytes.len() as u64,
            // Free the space of the partial write; the next write would overwrite it anyway.
            Err(_) => drop(active.file.set_len(active.length)),
        }
        written
    }

    /// Restores the acknowledged part of a segment that was removed while open, and stops the platform. Returns the
    /// error for the callers.
    fn save(&self, active: &Active) -> io::Error {
        let path = active.watched.path();
        let back = || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let mut options = File::options();
            let mut to = options.write(true).create_new(true).mode(0o600).open(path)?;
            let mut from = io::BufReader::new(super::ReadAt {
                file: &active.file,
                offset: 0,
                left: usize::try_from(active.length).unwrap_or(usize::MAX),
            });
            io::copy(&mut from, &mut to)?;
            to.sync_all()?;
            File::open(&self.folder)?.sync_all()
        };
        let saved = match back() {
            Ok(()) => "its acknowledged content is restored".to_owned(),
            // An earlier call restored it, or another program created it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                "another file has its name now".to_owned()
            }
            Err(error) => format!("its content cannot be saved: {error}"),
        };
        let why = format!("{} was removed or replaced while it was open: {saved}", path.display());
        tracing::error!("{why}");
        self.dir.lose();
        io::Error::other(why)
    }

    /// Closes the active segment if it is full or may not grow; the caller retries the write that did not fit.
    fn roll_if_full(&self, may_not_grow: bool) -> io::Result<()> {
        let full = self.active();
        if full.length < self.segment_bytes && !(may_not_grow && full.length > 0) {
            return Ok(());
        }
        full.file.sync_data()?;
        let path = segment_path(&self.folder, full.number);
        // Only this writer changes extents, so the write need not hold the index lock.
        let logs = lock(&self.index).logs.clone();
        cold::write(&path, &logs)?;
        let closed = ColdSegment::open(full.number, &path)?;
        let number = full.number + 1;
        let next = segment_path(&self.folder, number);
        let file = Arc::new(open_segment(&self.folder, &next)?);
        let watched = Arc::new(WatchedFile::new(next)?);
        let mut index = lock(&self.index);
        if closed.is_empty() {
            cold::delete(&path)?;
        } else {
            index.cold.insert(full.number, Arc::new(closed));
        }
        index.logs.retain(|_, log| log.end.is_none());
        index.logs.values_mut().for_each(|log| log.extents.clear());
        *lock(&self.active) = Active { number, file, watched, length: 0 };
        Ok(())
    }
}

/// Returns whether a write failed at a limit on the file size.
fn is_too_long(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::FileTooLarge
}

/// The requests of one write, checked against the stored logs and the requests before them.
struct Batch<'a> {
    index: &'a Mutex<Index>,
    start: u64,
    bytes: Vec<u8>,
    logs: BTreeMap<AttemptId, Log>,
    removed: Vec<AttemptId>,
}

impl Batch<'_> {
    fn log(&mut self, attempt: AttemptId) -> &mut Log {
        self.logs.entry(attempt).or_insert_with(|| lock(self.index).find(attempt))
    }

    fn append(&mut self, attempt: AttemptId, records: &[LogRecord]) -> Result<u64, LogError> {
        for record in records {
            let log = self.log(attempt);
            let Some(record) = record.taken_by(log.next, log.end)? else { continue };
            let at = self.bytes.len();
            frame::encode(&mut self.bytes, attempt, &Frame::Record(record.clone()), 0);
            let (offset, length) = (self.start + at as u64, self.bytes.len() - at);
            self.log(attempt).record(&record, offset, length);
        }
        Ok(self.log(attempt).next)
    }

    fn seal(&mut self, attempt: AttemptId, end: LogEnd) -> u64 {
        let log = self.log(attempt);
        let next = log.next;
        if log.end.is_none() {
            log.end = Some(end);
            frame::encode(&mut self.bytes, attempt, &Frame::End(end), next);
        }
        next
    }

    /// Removes the log, and records this in the segment for later starts.
    fn remove(&mut self, attempt: AttemptId) -> u64 {
        let next = self.log(attempt).next;
        frame::encode(&mut self.bytes, attempt, &Frame::Removed, next);
        self.removed.push(attempt);
        next
    }
}

/// Opens a segment for writing and syncs its folder, so that a new one survives a crash of the machine.
fn open_segment(folder: &Path, path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

/// The logs found by scanning a segment.
struct Scanned {
    logs: BTreeMap<AttemptId, Log>,
    /// Offset after its last intact frame.
    length: u64,
}

/// Scans a segment. Damage is skipped up to the next intact frame; it leaves a hole in its log, which reads return as a
/// gap.
fn scan(index: &Index, path: &Path) -> io::Result<Scanned> {
    let mut logs: BTreeMap<AttemptId, Log> = BTreeMap::new();
    let mut from = BufReader::with_capacity(1 << 20, File::open(path)?);
    let (mut offset, mut length) = (0, 0);
    loop {
        let Some((attempt, sequence, found)) = frame::decode(&mut from)? else {
            let Some(next) = frame::find_next(path, offset)? else { break };
            tracing::error!(path = %path.display(), from = offset, to = next, "stored output is damaged");
            offset = next;
            from.seek(SeekFrom::Start(next))?;
            continue;
        };
        // The beginning of an unknown attempt's log was removed with an earlier segment.
        let log = logs.entry(attempt).or_insert_with(|| {
            let known = index.find(attempt);
            if known == Log::default() { Log { next: sequence, ..known } } else { known }
        });
        let bytes = match &found {
            Frame::Record(record) => frame::length(record),
            Frame::End(_) | Frame::Removed => HEADER_BYTES,
        };
        match found {
            // Remainder of a failed write that was retried.
            Frame::Record(_) if sequence < log.next => {}
            Frame::Record(record) => log.record(&record, offset, bytes),
            Frame::End(end) => {
                log.end.get_or_insert(end);
            }
            Frame::Removed => drop(logs.remove(&attempt)),
        }
        offset += bytes as u64;
        length = offset;
    }
    Ok(Scanned { logs, length })
}
