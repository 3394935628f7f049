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

/// Collects what is read from the pipes into chunks, and chunks into batches, without the secrets of the job.
#[derive(Debug, Default)]
pub(in crate::executor) struct LogBatcher {
    done: Vec<Chunk>,
    open: BytesMut,
    stream: Option<LogStream>,
    bytes: usize,
    masked: Option<Masked>,
}

/// Where what may have secrets in it is read to, and the masks of both streams.
#[derive(Debug)]
struct Masked {
    raw: BytesMut,
    stdout: Mask,
    stderr: Mask,
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::executor) enum Read {
    Some,
    Empty,
    End,
}

/// A batch is sent when it has this many bytes…
pub(in crate::executor) const FULL: usize = 32 * 1024;
/// …or when its first byte is this old.
pub(in crate::executor) const IDLE: Duration = Duration::from_millis(5);
/// What is read at once.
pub(in crate::executor) const AT_ONCE: usize = 64 * 1024;

impl LogBatcher {
    /// One for the output of a job that must not show these.
    pub(in crate::executor) fn new(needles: Option<&Arc<Needles>>) -> Self {
        let masked = needles.map(|needles| Masked {
            raw: BytesMut::new(),
            stdout: Mask::new(needles.clone()),
            stderr: Mask::new(needles.clone()),
        });
        Self { masked, ..Self::default() }
    }

    /// Reads once from a pipe. A chunk grows as long as one stream alone speaks.
    pub(in crate::executor) fn read(
        &mut self,
        stream: LogStream,
        end: &pipe::Receiver,
        now: Timestamp,
    ) -> Read {
        self.speaks(stream, now);
        let before = self.open.len();
        let into = self.masked.as_mut().map_or(&mut self.open, |masked| &mut masked.raw);
        into.reserve(AT_ONCE);
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

    /// Nothing more comes of a stream: what was held back of it is not the beginning of a secret.
    pub(in crate::executor) fn end(&mut self, stream: LogStream, now: Timestamp) {
        self.speaks(stream, now);
        let before = self.open.len();
        if let Some(masked) = &mut self.masked {
            masked.of(stream).finish(&mut self.open);
        }
        self.bytes += self.open.len() - before;
    }

    /// Adds a line of the agent's own to the standard error of the job.
    pub(in crate::executor) fn say(&mut self, line: &str, now: Timestamp) {
        self.close(now);
        self.bytes += line.len();
        self.done.push(Chunk {
            stream: LogStream::Stderr,
            at: now,
            bytes: Bytes::copy_from_slice(line.as_bytes()),
        });
    }

    /// Bytes that wait to be sent.
    pub(in crate::executor) fn len(&self) -> usize {
        self.bytes
    }

    /// What was collected, and a fresh start.
    pub(in crate::executor) fn take(&mut self, now: Timestamp) -> Vec<Chunk> {
        self.close(now);
        self.bytes = 0;
        std::mem::take(&mut self.done)
    }

    fn speaks(&mut self, stream: LogStream, now: Timestamp) {
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
