//! Closed segments and their index files. An index file holds a table of attempts in order, then their extents, then
//! one byte per attempt that says whether the attempt was removed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::BufMut;
use hodei_core::id::{AttemptId, JobId};
use hodei_core::port::{LogEnd, LogState};
use uuid::Uuid;

use super::extents::{Extent, Log};
use super::frame::field;

const MAGIC: &[u8; 8] = b"HODEIX01";
/// Size of the header: magic, number of attempts, number of extents, length of the segment.
const HEADER_BYTES: usize = 24;
/// Size of a table entry: attempt, end, next, bytes, first extent, number of extents.
const ENTRY_BYTES: usize = 48;
/// Size of an extent: first and next sequence number, offset, length.
const EXTENT_BYTES: usize = 24;

/// A closed segment. Its files are opened on each read, because there may be more of them than a process may hold open.
#[derive(Debug)]
pub(super) struct ColdSegment {
    pub(super) number: u32,
    path: PathBuf,
    attempts: u32,
    extents: u32,
    /// The first and the last attempt of the table.
    range: Option<(AttemptId, AttemptId)>,
    /// Number of attempts that are not removed.
    live: AtomicU32,
}

struct Entry {
    attempt: AttemptId,
    state: LogState,
    first_extent: u32,
    extents: u32,
}

/// Returns the path of a segment's index file.
pub(super) fn index_path(segment: &Path) -> PathBuf {
    segment.with_extension("idx")
}

/// Writes the index file of a segment atomically.
pub(super) fn write(segment: &Path, logs: &BTreeMap<AttemptId, Log>) -> io::Result<()> {
    let here: Vec<_> = logs.iter().filter(|(_, log)| !log.extents.is_empty() || log.end.is_some()).collect();
    let count: usize = here.iter().map(|(_, log)| log.extents.len()).sum();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + here.len() * (ENTRY_BYTES + 1) + count * EXTENT_BYTES);
    bytes.put_slice(MAGIC);
    bytes.put_u32_le(here.len() as u32);
    bytes.put_u32_le(count as u32);
    bytes.put_u64_le(std::fs::metadata(segment)?.len());
    let mut first = 0;
    for (attempt, log) in &here {
        bytes.put_slice(attempt.job.as_uuid().as_bytes());
        bytes.put_u32_le(attempt.number);
        bytes.put_u32_le(match log.end {
            None => 0,
            Some(LogEnd::Complete) => 1,
            Some(LogEnd::Torn) => 2,
        });
        bytes.put_u64_le(log.next);
        bytes.put_u64_le(log.bytes);
        bytes.put_u32_le(first);
        bytes.put_u32_le(log.extents.len() as u32);
        first += log.extents.len() as u32;
    }
    for extent in here.iter().flat_map(|(_, log)| &log.extents) {
        bytes.put_u64_le(extent.first);
        bytes.put_u64_le(extent.next);
        bytes.put_u32_le(extent.offset);
        bytes.put_u32_le(extent.length);
    }
    bytes.resize(bytes.len() + here.len(), 0);
    let (path, new) = (index_path(segment), segment.with_extension("new"));
    let mut file = File::create(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(new, path)
}

/// Deletes the segment, then its index. An index without a segment is ignored, but a segment without an index would be
/// read.
pub(super) fn delete(segment: &Path) -> io::Result<()> {
    for path in [segment.to_owned(), index_path(segment)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl ColdSegment {
    /// Opens a segment by its index file.
    ///
    /// # Errors
    /// When there is no index file, or it is damaged or outdated.
    pub(super) fn open(number: u32, segment: &Path) -> io::Result<Self> {
        let index = File::open(index_path(segment))?;
        let mut head = [0; HEADER_BYTES];
        index.read_exact_at(&mut head, 0)?;
        let (attempts, extents) = (u32::from_le_bytes(field(&head, 8)), u32::from_le_bytes(field(&head, 12)));
        let closed_at = u64::from_le_bytes(field(&head, 16));
        let mut cold = Self {
            number,
            path: segment.to_owned(),
            attempts,
            extents,
            range: None,
            live: AtomicU32::new(0),
        };
        let length = cold.removed_at(attempts);
        let is_intact = &head[..8] == MAGIC && index.metadata()?.len() == length;
        // A segment that grew after its index was written has to be scanned again.
        if !is_intact || std::fs::metadata(segment)?.len() != closed_at {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the index of a log segment is damaged or outdated",
            ));
        }
        if attempts > 0 {
            cold.range = Some((entry(&index, 0)?.attempt, entry(&index, attempts - 1)?.attempt));
        }
        let mut removed = vec![0; attempts as usize];
        index.read_exact_at(&mut removed, cold.removed_at(0))?;
        *cold.live.get_mut() = removed.iter().filter(|flag| **flag == 0).count() as u32;
        Ok(cold)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether all attempts in it are removed.
    pub(super) fn is_empty(&self) -> bool {
        self.live.load(Ordering::Relaxed) == 0
    }

    pub(super) fn may_have(&self, attempt: AttemptId) -> bool {
        self.range.is_some_and(|(first, last)| (first..=last).contains(&attempt))
    }

    /// Returns the state of an attempt's log at the end of this segment.
    pub(super) fn state(&self, attempt: AttemptId) -> Option<LogState> {
        Some(self.find(&self.index().ok()?, attempt)?.1.state)
    }

    /// Returns the extents of an attempt's records in this segment, starting with the one that contains `from`.
    pub(super) fn extents(&self, attempt: AttemptId, from: u64) -> io::Result<Vec<Extent>> {
        if !self.may_have(attempt) {
            return Ok(Vec::new());
        }
        let index = self.index()?;
        let Some((_, entry)) = self.find(&index, attempt) else { return Ok(Vec::new()) };
        let mut bytes = vec![0; entry.extents as usize * EXTENT_BYTES];
        let at = HEADER_BYTES as u64 + u64::from(self.attempts) * ENTRY_BYTES as u64;
        index.read_exact_at(&mut bytes, at + u64::from(entry.first_extent) * EXTENT_BYTES as u64)?;
        let extents = bytes.chunks_exact(EXTENT_BYTES).map(|bytes| Extent {
            first: u64::from_le_bytes(field(bytes, 0)),
            next: u64::from_le_bytes(field(bytes, 8)),
            offset: u32::from_le_bytes(field(bytes, 16)),
            length: u32::from_le_bytes(field(bytes, 20)),
        });
        Ok(extents.filter(|extent| extent.next > from).collect())
    }

    /// Marks an attempt as removed.
    pub(super) fn remove(&self, attempt: AttemptId) -> io::Result<()> {
        let index = File::options().read(true).write(true).open(index_path(&self.path))?;
        if let Some((place, _)) = self.find(&index, attempt) {
            index.write_all_at(&[1], self.removed_at(place))?;
            self.live.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Syncs removals to disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.index()?.sync_data()
    }

    fn index(&self) -> io::Result<File> {
        File::open(index_path(&self.path))
    }

    fn removed_at(&self, place: u32) -> u64 {
        let before =
            u64::from(self.attempts) * ENTRY_BYTES as u64 + u64::from(self.extents) * EXTENT_BYTES as u64;
        HEADER_BYTES as u64 + before + u64::from(place)
    }

    /// Finds the entry of an attempt that is not removed, by binary search; `None` also when the index is unreadable.
    fn find(&self, index: &File, attempt: AttemptId) -> Option<(u32, Entry)> {
        if !self.may_have(attempt) {
            return None;
        }
        let (mut low, mut high) = (0, self.attempts);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = entry(index, middle).ok()?;
            match entry.attempt.cmp(&attempt) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let mut removed = [0];
                    index.read_exact_at(&mut removed, self.removed_at(middle)).ok()?;
                    return (removed == [0]).then_some((middle, entry));
                }
            }
        }
        None
    }
}

fn entry(index: &File, place: u32) -> io::Result<Entry> {
    let mut bytes = [0; ENTRY_BYTES];
    index.read_exact_at(&mut bytes, HEADER_BYTES as u64 + u64::from(place) * ENTRY_BYTES as u64)?;
    let job = JobId::from_uuid(Uuid::from_bytes(field(&bytes, 0)));
    let end = match u32::from_le_bytes(field(&bytes, 20)) {
        1 => Some(LogEnd::Complete),
        2 => Some(LogEnd::Torn),
        _ => None,
    };
    let (next, bytes_of) = (u64::from_le_bytes(field(&bytes, 24)), u64::from_le_bytes(field(&bytes, 32)));
    Ok(Entry {
        attempt: AttemptId { job, number: u32::from_le_bytes(field(&bytes, 16)) },
        state: LogState { next, bytes: bytes_of, end },
        first_extent: u32::from_le_bytes(field(&bytes, 40)),
        extents: u32::from_le_bytes(field(&bytes, 44)),
    })
}
