//! Writing the job's output, on a thread of its own: a terminal that stands still must not stop the platform.

use std::io::{self, Write};

use hodei_sdk::LogItem;
use hodei_sdk::port::{LogBody, LogStream};
use tokio::sync::{mpsc, oneshot};

use crate::args::OutputFormat;

/// Takes pieces and writes them in order.
#[derive(Debug)]
pub(crate) struct Writer {
    pieces: mpsc::Sender<LogItem>,
    done: oneshot::Receiver<io::Result<()>>,
}

impl Writer {
    /// Starts the writing thread.
    pub(crate) fn start(format: OutputFormat) -> Self {
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
        Self { pieces, done }
    }

    /// Hands a piece over, waiting for room; false when writing failed. Cancel safe.
    pub(crate) async fn put(&self, item: LogItem) -> bool {
        self.pieces.send(item).await.is_ok()
    }

    /// Waits until everything is written.
    pub(crate) async fn finish(self) -> io::Result<()> {
        drop(self.pieces);
        self.done.await.unwrap_or(Ok(()))
    }
}

fn write(item: &LogItem, format: OutputFormat) -> io::Result<()> {
    let LogItem::Record { record, .. } = item else {
        return note("the worker was lost: what the job wrote last is unknown");
    };
    match &record.body {
        LogBody::Chunk { stream: LogStream::Stdout, bytes } if format == OutputFormat::Text => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
        LogBody::Chunk { bytes, .. } => io::stderr().lock().write_all(bytes),
        LogBody::Gap(gap) => note(&format!("{} pieces of the output are missing here", gap.to - gap.from)),
    }
}

fn note(text: &str) -> io::Result<()> {
    writeln!(io::stderr().lock(), "hodei: {text}")
}
