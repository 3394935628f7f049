//! Writes the output of a job on its own thread: a blocked terminal must not block the platform.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use hodei_sdk::LogItem;
use hodei_sdk::port::{LogBody, LogStream};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::term::show::Format;

/// Writes pieces of output in order.
#[derive(Debug)]
pub(crate) struct Writer {
    pieces: mpsc::Sender<LogItem>,
    /// Standard output, if it is of a kind that reports when its reader closes it.
    watched: Option<AsyncFd<OwnedFd>>,
    done: oneshot::Receiver<io::Result<()>>,
}

impl Writer {
    /// Starts the writing thread.
    pub(crate) fn start(format: Format) -> Self {
        let (pieces, mut waiting) = mpsc::channel(16);
        let (answer, done) = oneshot::channel();
        std::thread::spawn(move || {
            let mut written = Ok(());
            while let (Ok(()), Some(item)) = (&written, waiting.blocking_recv()) {
                written = write(&item, format);
            }
            drop(waiting);
            let _ = answer.send(written);
        });
        Self { pieces, watched: watch(format), done }
    }

    /// Completes when the reader of standard output closes it, even while nothing is written. Cancel safe.
    pub(crate) async fn abandoned(&self) {
        match &self.watched {
            Some(watched) => drop(watched.ready(Interest::ERROR).await),
            None => std::future::pending().await,
        }
    }

    /// Queues a piece, after a wait for room; returns false if writing failed. Cancel safe.
    pub(crate) async fn put(&self, item: LogItem) -> bool {
        self.pieces.send(item).await.is_ok()
    }

    /// Waits until all pieces are written.
    pub(crate) async fn finish(self) -> io::Result<()> {
        drop(self.pieces);
        self.done.await.unwrap_or(Ok(()))
    }
}

/// Writes one piece to standard output or standard error.
pub(crate) fn write(item: &LogItem, format: Format) -> io::Result<()> {
    let LogItem::Record { record, .. } = item else {
        return note(
            "the worker ended before it sent everything: the last output of this attempt may be missing",
        );
    };
    match &record.body {
        LogBody::Chunk { stream: LogStream::Stdout, bytes } if format == Format::Table => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
        LogBody::Chunk { stream: LogStream::Stdout, bytes } => io::stderr().lock().write_all(bytes),
        // A closed standard error must not stop standard output.
        LogBody::Chunk { bytes, .. } => {
            let _ = io::stderr().lock().write_all(bytes);
            Ok(())
        }
        LogBody::Gap(gap) if gap.bytes > 0 => {
            note(&format!("{} bytes of the output are missing here", gap.bytes))
        }
        LogBody::Gap(gap) => note(&format!("{} pieces of the output are missing here", gap.to - gap.from)),
    }
}

fn note(text: &str) -> io::Result<()> {
    let _ = writeln!(io::stderr().lock(), "hodei: {text}");
    Ok(())
}

/// Watches standard output if it is a pipe or a socket; a file or a terminal has no reader that closes it.
#[expect(
    deprecated,
    reason = "sound for an OwnedFd, which keeps its descriptor; the replacement is an unsafe fn"
)]
fn watch(format: Format) -> Option<AsyncFd<OwnedFd>> {
    if format == Format::Json {
        return None;
    }
    let stdout = io::stdout().as_fd().try_clone_to_owned().ok()?;
    AsyncFd::with_interest(stdout, Interest::ERROR).ok()
}
