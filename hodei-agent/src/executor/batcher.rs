use std::io;
use std::time::Duration;

use bytes::BytesMut;
use hodei_core::port::LogStream;
use hodei_core::time::Timestamp;
use tokio::net::unix::pipe;

use super::Chunk;

/// Collects what is read from the pipes into chunks, and chunks into batches.
#[derive(Debug, Default)]
pub(super) struct LogBatcher {
    done: Vec<Chunk>,
    open: BytesMut,
    stream: Option<LogStream>,
    bytes: usize,
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Some,
    Empty,
    End,
}

/// A batch is sent when it has this many bytes…
pub(super) const FULL: usize = 32 * 1024;
/// …or when its first byte is this old.
pub(super) const IDLE: Duration = Duration::from_millis(5);
/// What is read at once.
const AT_ONCE: usize = 64 * 1024;

impl LogBatcher {
    /// Reads once from a pipe. A chunk grows as long as one stream alone speaks.
    pub(super) fn read(&mut self, stream: LogStream, end: &pipe::Receiver, now: Timestamp) -> Read {
        if self.stream != Some(stream) {
            self.close(now);
            self.stream = Some(stream);
        }
        self.open.reserve(AT_ONCE);
        match end.try_read_buf(&mut self.open) {
            Ok(0) => Read::End,
            Ok(read) => {
                self.bytes += read;
                Read::Some
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Empty,
            Err(_) => Read::End,
        }
    }

    /// Bytes that wait to be sent.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// What was collected, and a fresh start.
    pub(super) fn take(&mut self, now: Timestamp) -> Vec<Chunk> {
        self.close(now);
        self.bytes = 0;
        std::mem::take(&mut self.done)
    }

    fn close(&mut self, at: Timestamp) {
        if let (Some(stream), false) = (self.stream, self.open.is_empty()) {
            self.done.push(Chunk { stream, at, bytes: self.open.split().freeze() });
        }
    }
}
