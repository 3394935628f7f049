//! The spool: the unacknowledged output of one attempt, in memory and on disk.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use hodei_core::id::AttemptId;
use hodei_proto::{convert, v1};
use prost::Message;

use crate::executor::{Chunk, weight};

/// The unacknowledged output of one attempt, in order. The older part may be on disk.
#[derive(Debug, Default)]
pub(super) struct Spool {
    disk: Option<Overflow>,
    memory: VecDeque<Batch>,
    /// The number of the next chunk to be written.
    end: u64,
    /// The number of the next chunk to be sent on the current stream.
    cursor: u64,
    /// The unacknowledged batches of the current stream: for each, the number behind its last chunk and its size for
    /// [`in_flight`](Self::in_flight).
    sent: VecDeque<(u64, usize)>,
    in_flight: usize,
}

/// Minimum size that a batch counts as, in bytes: many small batches are as much work as a big one.
const MIN_BATCH_BYTES: usize = 8 << 10;

#[derive(Debug)]
struct Batch {
    message: v1::LogBatch,
    permits: usize,
}

/// Batches in a file without a name, which the system removes when the agent ends.
#[derive(Debug)]
struct Overflow {
    file: File,
    entries: VecDeque<Entry>,
    length: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    first: u64,
    next: u64,
    offset: u64,
    length: usize,
}

/// The result of moving output out of memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Spilled {
    /// Number of freed permits.
    pub(super) permits: usize,
    /// Number of bytes that were written to disk.
    pub(super) bytes: u64,
    /// Number of dropped chunks. Their numbers stay unused, and a gap record will say so.
    pub(super) dropped: u64,
}

fn next_of(batch: &v1::LogBatch) -> u64 {
    batch.first_sequence + batch.chunks.len() as u64
}

impl Spool {
    /// Numbers the chunks and keeps them.
    pub(super) fn push(&mut self, attempt: AttemptId, chunks: &[Chunk]) {
        let permits = weight(chunks);
        let wire = chunks.iter().map(|chunk| v1::LogChunk {
            stream: convert::stream_to_wire(chunk.stream).into(),
            at_micros: chunk.at.as_micros(),
            data: chunk.bytes.clone(),
        });
        let attempt = Some(convert::attempt_ref(attempt));
        let message = v1::LogBatch { attempt, first_sequence: self.end, chunks: wire.collect() };
        self.end = next_of(&message);
        self.memory.push_back(Batch { message, permits });
    }

    /// Returns the next batch to send. Skips batches that cannot be read back, for which the platform records a gap.
    pub(super) fn next_batch(&mut self) -> Option<v1::LogBatch> {
        while let Some(entry) = self.on_disk() {
            self.cursor = entry.next;
            match self.disk.as_ref().map(|disk| disk.read(entry)) {
                Some(Ok(batch)) => return Some(self.on_sent(batch, entry.length)),
                Some(Err(error)) => {
                    tracing::error!(%error, "spooled output cannot be read back: its log has a gap")
                }
                None => {}
            }
        }
        // Batches are sent in order, so those below the cursor come first.
        let sent = self.memory.partition_point(|batch| next_of(&batch.message) <= self.cursor);
        let Batch { message, permits } = self.memory.get(sent)?;
        let (batch, size) = (message.clone(), *permits);
        self.cursor = next_of(&batch);
        Some(self.on_sent(batch, size))
    }

    fn on_sent(&mut self, batch: v1::LogBatch, size: usize) -> v1::LogBatch {
        let size = size.max(MIN_BATCH_BYTES);
        self.sent.push_back((next_of(&batch), size));
        self.in_flight += size;
        batch
    }

    /// Returns the unacknowledged bytes of the current stream.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn on_disk(&self) -> Option<Entry> {
        let entries = &self.disk.as_ref()?.entries;
        entries.get(entries.partition_point(|entry| entry.next <= self.cursor)).copied()
    }

    /// Starts a new stream: everything kept is to be sent again.
    pub(super) fn rewind(&mut self) {
        self.cursor = 0;
        self.sent.clear();
        self.in_flight = 0;
    }

    /// Drops batches that lie wholly below `next`. Returns the number of permits they held.
    pub(super) fn acknowledge(&mut self, next: u64) -> usize {
        let mut freed = 0;
        while self.sent.front().is_some_and(|(number, _)| *number <= next) {
            self.in_flight -= self.sent.pop_front().map_or(0, |(_, size)| size);
        }
        if let Some(disk) = &mut self.disk {
            while disk.entries.front().is_some_and(|entry| entry.next <= next) {
                disk.entries.pop_front();
            }
            if disk.entries.is_empty() {
                self.disk = None;
            }
        }
        while self.memory.front().is_some_and(|batch| next_of(&batch.message) <= next) {
            freed += self.memory.pop_front().map_or(0, |batch| batch.permits);
        }
        freed
    }

    /// Moves the batches in memory to a file in `dir`, which may grow by `room` bytes.
    pub(super) fn spill(&mut self, dir: &Path, room: u64) -> Spilled {
        let mut spilled = Spilled::default();
        for Batch { message, permits } in std::mem::take(&mut self.memory) {
            spilled.permits += permits;
            let bytes = message.encode_to_vec();
            let fits = spilled.bytes + bytes.len() as u64 <= room;
            let failed =
                |error: &io::Error| tracing::error!(%error, "output cannot be spooled and is dropped");
            if fits && self.write(dir, &message, &bytes).inspect_err(failed).is_ok() {
                spilled.bytes += bytes.len() as u64;
            } else {
                spilled.dropped += message.chunks.len() as u64;
            }
        }
        spilled
    }

    fn write(&mut self, dir: &Path, message: &v1::LogBatch, bytes: &[u8]) -> io::Result<()> {
        let disk = match &mut self.disk {
            Some(disk) => disk,
            none => none.insert(Overflow { file: file_in(dir)?, entries: VecDeque::new(), length: 0 }),
        };
        disk.file.write_all_at(bytes, disk.length)?;
        let entry = Entry {
            first: message.first_sequence,
            next: next_of(message),
            offset: disk.length,
            length: bytes.len(),
        };
        disk.entries.push_back(entry);
        disk.length += bytes.len() as u64;
        Ok(())
    }

    /// Returns the number of the first kept chunk.
    pub(super) fn first(&self) -> u64 {
        let disk = self.disk.as_ref().and_then(|disk| disk.entries.front()).map(|entry| entry.first);
        disk.or(self.memory.front().map(|batch| batch.message.first_sequence)).unwrap_or(self.end)
    }

    /// Returns the number of the next chunk to be written.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Returns the number of permits held by the batches in memory, which is about their size in bytes.
    pub(super) fn in_memory(&self) -> usize {
        self.memory.iter().map(|batch| batch.permits).sum()
    }

    /// Returns the length of the file in bytes.
    pub(super) fn on_disk_bytes(&self) -> u64 {
        self.disk.as_ref().map_or(0, |disk| disk.length)
    }
}

/// Creates a file without a name. Creates the directory again if it was cleaned up.
fn file_in(dir: &Path) -> io::Result<File> {
    tempfile::tempfile_in(dir).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => std::fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir)),
        _ => Err(error),
    })
}

impl Overflow {
    fn read(&self, entry: Entry) -> io::Result<v1::LogBatch> {
        let mut bytes = vec![0; entry.length];
        self.file.read_exact_at(&mut bytes, entry.offset)?;
        v1::LogBatch::decode(bytes::Bytes::from(bytes)).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use hodei_core::id::JobId;
    use hodei_core::port::LogStream;
    use hodei_core::time::Timestamp;

    use super::*;

    fn push(spool: &mut Spool, text: &str) {
        let attempt = AttemptId { job: JobId::from_uuid(uuid::Uuid::from_u128(1)), number: 1 };
        let bytes = bytes::Bytes::copy_from_slice(text.as_bytes());
        spool.push(attempt, &[Chunk { stream: LogStream::Stdout, at: Timestamp::EPOCH, bytes }]);
    }

    fn sent(spool: &mut Spool) -> Vec<(u64, String)> {
        let text = |batch: &v1::LogBatch| String::from_utf8_lossy(&batch.chunks[0].data).into_owned();
        std::iter::from_fn(|| spool.next_batch()).map(|batch| (batch.first_sequence, text(&batch))).collect()
    }

    fn expect(items: &[(u64, &str)]) -> Vec<(u64, String)> {
        items.iter().map(|(number, text)| (*number, (*text).to_owned())).collect()
    }

    #[test]
    fn spilled_output_is_sent_before_output_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::default();
        push(&mut spool, "a");
        push(&mut spool, "b");
        assert_eq!(sent(&mut spool), expect(&[(0, "a"), (1, "b")]));
        let spilled = spool.spill(dir.path(), 1 << 20);
        assert_eq!((spilled.permits, spilled.dropped, spool.in_memory()), (2, 0, 0));
        push(&mut spool, "c");
        spool.rewind();
        assert_eq!(sent(&mut spool), expect(&[(0, "a"), (1, "b"), (2, "c")]));
        assert_eq!((spool.acknowledge(1), spool.first()), (0, 1));
        spool.rewind();
        assert_eq!(sent(&mut spool), expect(&[(1, "b"), (2, "c")]));
        assert_eq!((spool.acknowledge(3), spool.first(), spool.on_disk_bytes()), (1, 3, 0));
    }

    #[test]
    fn dropped_output_leaves_a_hole_in_the_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::default();
        push(&mut spool, "a");
        push(&mut spool, "b");
        assert_eq!(spool.spill(dir.path(), 0), Spilled { permits: 2, bytes: 0, dropped: 2 });
        push(&mut spool, "c");
        assert_eq!(sent(&mut spool), expect(&[(2, "c")]));
        assert_eq!(spool.end(), 3);
        assert_eq!(
            spool.spill(Path::new("/proc/nowhere"), 1 << 20).dropped,
            1,
            "a failing disk counts as a full one"
        );
        push(&mut spool, "d");
        let made = dir.path().join("cleaned/away");
        assert_eq!((spool.spill(&made, 1 << 20).dropped, made.is_dir()), (0, true));
    }
}
