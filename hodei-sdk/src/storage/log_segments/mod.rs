//! Log store in append-only files. All attempts share the active segment, so that many small logs cost one sync. A full
//! segment is closed with an index file beside it, and deleted once all of its attempts are removed.

mod cold;
mod extents;
mod frame;
mod index;
mod writer;

use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hodei_core::id::AttemptId;
use hodei_core::port::{LogEnd, LogError, LogRecord, LogState, LogStore, StoreError};
use hodei_core::time::Timestamp;
use tokio::sync::oneshot;

use super::DataDir;
use crate::error::OpenError;
use crate::storage::data_dir::reserve::is_full;
use crate::task;
use extents::Extent;
use frame::Frame;
use index::Index;
use writer::{Request, Work, Writer};

/// A log store in segment files of a data directory. Clones share it.
#[derive(Debug, Clone)]
pub struct SegmentLogStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    writer: Writer,
    index: Arc<Mutex<Index>>,
    queue: Mutex<Queue>,
    /// Held by the thread that writes.
    turn: Mutex<()>,
}

/// Requests that wait for the writer, at most one per caller.
#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Request>,
    is_writing: bool,
    closed: bool,
}

impl SegmentLogStore {
    /// Length in bytes at which a segment is closed: 64 MiB.
    pub const SEGMENT_BYTES: u64 = 64 << 20;

    /// Opens the logs of a data directory and cuts off incomplete writes of a crash.
    ///
    /// # Errors
    /// [`OpenError::File`] names the unusable file and the reason.
    pub async fn open(dir: Arc<DataDir>) -> Result<Self, OpenError> {
        Self::open_with(dir, Self::SEGMENT_BYTES).await
    }

    /// Opens the logs with another segment length, up to 1 GiB.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with(dir: Arc<DataDir>, segment_bytes: u64) -> Result<Self, OpenError> {
        let folder = dir.logs();
        let opened = task::blocking(move || Writer::open(dir, segment_bytes.min(1 << 30))).await;
        let (writer, index) = opened.map_err(|source| OpenError::File { path: folder.clone(), source })?;
        Ok(Self { inner: Arc::new(Inner { writer, index, queue: Mutex::default(), turn: Mutex::default() }) })
    }

    /// Rejects further writes, and returns once the current write has ended.
    pub async fn close(&self) {
        {
            let mut queue = lock(&self.inner.queue);
            queue.closed = true;
            // A caller that still waits is told that its write was not stored.
            queue.waiting.clear();
        }
        let inner = self.inner.clone();
        task::blocking(move || drop(lock(&inner.turn))).await;
    }

    async fn write(&self, attempt: AttemptId, work: Work) -> Result<u64, LogError> {
        answer_of(self.enqueue(attempt, work)?).await
    }

    /// Queues a request for the writer; requests that wait together share one sync.
    fn enqueue(&self, attempt: AttemptId, work: Work) -> Result<Answer, LogError> {
        let (reply, answer) = oneshot::channel();
        let is_writing = {
            let mut queue = lock(&self.inner.queue);
            if queue.closed {
                return Err(log_error(&io::Error::other("the log store is closed")));
            }
            queue.waiting.push(Request { attempt, work, reply });
            std::mem::replace(&mut queue.is_writing, true)
        };
        if !is_writing {
            let inner = self.inner.clone();
            task::detach_blocking(move || inner.write_all_waiting());
        }
        Ok(answer)
    }
}

/// The writer's pending answer.
type Answer = oneshot::Receiver<Result<u64, LogError>>;

async fn answer_of(answer: Answer) -> Result<u64, LogError> {
    let gone = || log_error(&io::Error::other("the log writer stopped before it answered"));
    answer.await.unwrap_or_else(|_| Err(gone()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Converts an I/O error into a retryable error of the port.
fn log_error(error: &io::Error) -> LogError {
    if is_full(error) {
        return StoreError::disk_full().into();
    }
    StoreError::Unavailable { retry_after: Duration::from_secs(1), why: error.to_string() }.into()
}

impl Inner {
    fn write_all_waiting(&self) {
        let _turn = lock(&self.turn);
        loop {
            let requests = {
                let mut queue = lock(&self.queue);
                queue.is_writing = !queue.waiting.is_empty();
                std::mem::take(&mut queue.waiting)
            };
            if requests.is_empty() {
                return;
            }
            self.writer.write(requests);
        }
    }

    fn read(&self, attempt: AttemptId, from: u64, max_bytes: usize) -> io::Result<Vec<LogRecord>> {
        let (hot, active, cold) = {
            // Read both under one lock: closing a segment changes extents and active segment under it.
            let index = lock(&self.index);
            let extents = index.logs.get(&attempt).map_or(&[][..], |log| &log.extents);
            let is_hot = extents.first().is_some_and(|extent| extent.first <= from);
            let first = extents.partition_point(|extent| extent.next <= from);
            let enough = extents[first..].iter().scan(0, |bytes, extent| {
                let before = std::mem::replace(bytes, *bytes + extent.length as usize);
                (before < max_bytes).then_some(*extent)
            });
            let hot: Vec<Extent> = enough.collect();
            (hot, self.writer.active(), if is_hot { Vec::new() } else { index.cold_of(attempt) })
        };
        let mut found = Vec::new();
        let mut bytes = 0;
        for segment in cold {
            let extents = segment.extents(attempt, from)?;
            if extents.is_empty() {
                continue;
            }
            let file = match std::fs::File::open(segment.path()) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            read_extents(&file, attempt, &extents, from, max_bytes, &mut bytes, &mut found)?;
            if bytes >= max_bytes {
                return Ok(found);
            }
        }
        read_extents(&active.file, attempt, &hot, from, max_bytes, &mut bytes, &mut found)?;
        Ok(found)
    }

    /// Removes some attempts from the closed segments.
    fn remove_cold(&self, attempts: &[AttemptId]) -> io::Result<()> {
        let mut touched = Vec::new();
        for attempt in attempts {
            for segment in lock(&self.index).cold_of(*attempt) {
                segment.remove(*attempt)?;
                touched.push(segment);
            }
        }
        touched.sort_by_key(|segment| segment.number);
        touched.dedup_by_key(|segment| segment.number);
        for segment in touched {
            if segment.is_empty() {
                lock(&self.index).cold.remove(&segment.number);
                cold::delete(segment.path())?;
            } else {
                segment.sync()?;
            }
        }
        Ok(())
    }
}

/// Reads records from `from` on until there are enough bytes. Unreadable records become a gap.
fn read_extents(
    file: &std::fs::File,
    attempt: AttemptId,
    extents: &[Extent],
    from: u64,
    max_bytes: usize,
    bytes: &mut usize,
    found: &mut Vec<LogRecord>,
) -> io::Result<()> {
    for extent in extents {
        // The records in between were damaged before the index was written.
        let expected = found.last().map_or(from, LogRecord::next);
        if expected < extent.first {
            found.push(LogRecord::gap(expected, extent.first, Timestamp::EPOCH));
        }
        if *bytes >= max_bytes && !found.is_empty() {
            return Ok(());
        }
        let at = ReadAt { file, offset: u64::from(extent.offset), left: extent.length as usize };
        let mut reader = BufReader::with_capacity((extent.length as usize).min(256 << 10), at);
        let mut next = extent.first;
        while next < extent.next {
            let record = match frame::decode(&mut reader)? {
                Some((of, sequence, Frame::Record(record))) if of == attempt && sequence == next => record,
                _ => {
                    tracing::error!(%attempt, next, "stored output is damaged");
                    LogRecord::gap(next, extent.next, Timestamp::EPOCH)
                }
            };
            next = record.next();
            if next <= from {
                continue;
            }
            if *bytes >= max_bytes && !found.is_empty() {
                return Ok(());
            }
            *bytes += record.bytes() + frame::HEADER_BYTES;
            found.push(record);
        }
    }
    Ok(())
}

/// Reads a part of a file without moving its shared position.
struct ReadAt<'a> {
    file: &'a std::fs::File,
    offset: u64,
    left: usize,
}

impl Read for ReadAt<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.left);
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += count as u64;
        self.left -= count;
        Ok(count)
    }
}

#[async_trait]
impl LogStore for SegmentLogStore {
    async fn append(&self, attempt: AttemptId, records: &[LogRecord]) -> Result<u64, LogError> {
        self.write(attempt, Work::Append(records.to_vec())).await
    }

    async fn seal(&self, attempt: AttemptId, end: LogEnd) -> Result<(), LogError> {
        self.write(attempt, Work::Seal(end)).await.map(drop)
    }

    async fn read(
        &self,
        attempt: AttemptId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        let inner = self.inner.clone();
        task::blocking(move || inner.read(attempt, from, max_bytes)).await.map_err(|error| log_error(&error))
    }

    async fn state(&self, attempt: AttemptId) -> Result<LogState, LogError> {
        if let Some(log) = lock(&self.inner.index).logs.get(&attempt) {
            return Ok(log.state());
        }
        let inner = self.inner.clone();
        Ok(task::blocking(move || lock(&inner.index).find(attempt).state()).await)
    }

    async fn remove(&self, attempts: &[AttemptId]) -> Result<(), LogError> {
        let hot = |attempt: &&AttemptId| lock(&self.inner.index).logs.contains_key(attempt);
        let removals = attempts.iter().filter(hot).map(|attempt| self.enqueue(*attempt, Work::Remove));
        for answer in removals.collect::<Result<Vec<_>, _>>()? {
            answer_of(answer).await?;
        }
        let (inner, attempts) = (self.inner.clone(), attempts.to_vec());
        task::blocking(move || inner.remove_cold(&attempts)).await.map_err(|error| log_error(&error))
    }
}
