//! Collects the output of a job into masked batches.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hodei_core::port::LogStream;
use hodei_core::time::Timestamp;
use tokio::net::unix::pipe;
use zeroize::Zeroize;

use crate::executor::Chunk;
use crate::executor::secrets::{Mask, Needles};

/// Reads the pipes of a job into chunks, and collects chunks into batches, with the job's secrets masked.
#[derive(Debug, Default)]
pub(in crate::executor) struct LogBatcher {
    done: Vec<Chunk>,
    open: BytesMut,
    stream: Option<LogStream>,
    bytes: usize,
    masked: Option<Masked>,
}

/// The buffer for unmasked output, and the masks of both streams.
#[derive(Debug)]
struct Masked {
    raw: BytesMut,
    stdout: Mask,
    stderr: Mask,
}

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::executor) enum Read {
    Some,
    Empty,
    End,
}

/// Size at which a batch is sent, in bytes.
pub(in crate::executor) const FULL_BATCH_BYTES: usize = 32 * 1024;
/// Age of its first byte at which a batch is sent.
pub(in crate::executor) const MAX_BATCH_AGE: Duration = Duration::from_millis(5);
/// Maximum number of bytes per read.
pub(in crate::executor) const MAX_READ_BYTES: usize = 64 * 1024;

impl LogBatcher {
    /// Creates a batcher that masks these secrets.
    pub(in crate::executor) fn new(needles: Option<&Arc<Needles>>) -> Self {
        let masked = needles.map(|needles| Masked {
            raw: BytesMut::new(),
            stdout: Mask::new(needles.clone()),
            stderr: Mask::new(needles.clone()),
        });
        Self { masked, ..Self::default() }
    }

    /// Reads once from a pipe. Consecutive output of one stream goes into one chunk.
    pub(in crate::executor) fn read(
        &mut self,
        stream: LogStream,
        end: &pipe::Receiver,
        now: Timestamp,
    ) -> Read {
        self.switch_to(stream, now);
        let before = self.open.len();
        let into = self.masked.as_mut().map_or(&mut self.open, |masked| &mut masked.raw);
        into.reserve(MAX_READ_BYTES);
        let read = match end.try_read_buf(into) {
            Ok(0) => Read::End,
            Ok(_) => Read::Some,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Empty,
            Err(_) => Read::End,
        };
        if let Some(masked) = &mut self.masked {
            masked.pass(stream, &mut self.open);
        }
        self.bytes += self.open.len() - before;
        if read == Read::End {
            self.end(stream, now);
        }
        read
    }

    /// Ends a stream: output that the mask held back is not the start of a secret.
    pub(in crate::executor) fn end(&mut self, stream: LogStream, now: Timestamp) {
        self.switch_to(stream, now);
        let before = self.open.len();
        if let Some(masked) = &mut self.masked {
            masked.of(stream).finish(&mut self.open);
        }
        self.bytes += self.open.len() - before;
    }

    /// Adds a line of the agent's own to the standard error of the job.
    pub(in crate::executor) fn add_line(&mut self, line: &str, now: Timestamp) {
        self.close(now);
        self.bytes += line.len();
        self.done.push(Chunk {
            stream: LogStream::Stderr,
            at: now,
            bytes: Bytes::copy_from_slice(line.as_bytes()),
        });
    }

    /// Returns the number of bytes that wait to be sent.
    pub(in crate::executor) fn len(&self) -> usize {
        self.bytes
    }

    /// Takes the collected batch.
    pub(in crate::executor) fn take(&mut self, now: Timestamp) -> Vec<Chunk> {
        self.close(now);
        self.bytes = 0;
        std::mem::take(&mut self.done)
    }

    fn switch_to(&mut self, stream: LogStream, now: Timestamp) {
        if self.stream != Some(stream) {
            self.close(now);
            self.stream = Some(stream);
        }
    }

    fn close(&mut self, at: Timestamp) {
        if let (Some(stream), false) = (self.stream, self.open.is_empty()) {
            self.done.push(Chunk { stream, at, bytes: self.open.split().freeze() });
        }
    }
}

impl Masked {
    fn of(&mut self, stream: LogStream) -> &mut Mask {
        match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        }
    }

    fn pass(&mut self, stream: LogStream, open: &mut BytesMut) {
        let mut raw = self.raw.split();
        if !raw.is_empty() {
            self.of(stream).push(&raw, open);
        }
        raw[..].zeroize();
    }
}
