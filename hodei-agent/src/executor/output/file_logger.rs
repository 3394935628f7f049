//! The output of attempts in files of the worker, for whoever looks there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hodei_core::id::AttemptId;
use hodei_core::port::{Clock, ClockExt};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

use crate::executor::Chunk;

/// Writes the output of each attempt to a file of the worker too, `JOB.ATTEMPT.log`, as the platform gets it: both streams
/// in the order in which they were read, secrets masked. Whoever has the directory removes what is old.
///
/// It is an extra: where it cannot write, jobs go on without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLogger {
    /// Where, made when missing.
    pub dir: PathBuf,
    /// Bytes of one file, at most; a last line says that there was more.
    pub limit: u64,
}

/// The files of all attempts of an executor.
#[derive(Debug, Clone)]
pub(in crate::executor) struct LogFiles {
    logger: FileLogger,
    /// The directory hung once: each further try would keep a thread.
    hangs: Arc<AtomicBool>,
}

/// The file of one attempt.
#[derive(Debug)]
pub(in crate::executor) struct LogFile {
    attempt: AttemptId,
    file: File,
    left: u64,
    hangs: Arc<AtomicBool>,
}

/// A disk that takes longer holds up output.
const LIMIT: Duration = Duration::from_secs(5);

impl FileLogger {
    /// Files there, of at most 64 MiB each.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), limit: 64 << 20 }
    }
}

impl LogFiles {
    pub(in crate::executor) fn new(logger: FileLogger) -> Self {
        Self { logger, hangs: Arc::default() }
    }

    /// The file of an attempt; `None`, with a word in the log, where there can be none.
    pub(in crate::executor) async fn open(
        self,
        clock: Arc<dyn Clock>,
        attempt: AttemptId,
    ) -> Option<LogFile> {
        let Self { logger, hangs } = self;
        if hangs.load(Ordering::Relaxed) {
            return None;
        }
        let path = logger.dir.join(format!("{}.{}.log", attempt.job, attempt.number));
        match in_time(&*clock, &hangs, create(&logger.dir, &path)).await {
            Ok(file) => Some(LogFile { attempt, file, left: logger.limit, hangs }),
            Err(error) => {
                tracing::warn!(%attempt, %error, path = %path.display(), "output is written to no file here");
                None
            }
        }
    }
}

async fn in_time<T: Send>(
    clock: &dyn Clock,
    hangs: &AtomicBool,
    work: impl Future<Output = io::Result<T>> + Send,
) -> io::Result<T> {
    clock.timeout(LIMIT, work).await.unwrap_or_else(|elapsed| {
        hangs.store(true, Ordering::Relaxed);
        tracing::error!("the directory for output hangs: it is used no more");
        Err(io::Error::other(elapsed))
    })
}

async fn create(dir: &Path, path: &Path) -> io::Result<File> {
    tokio::fs::create_dir_all(dir).await?;
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).await
}

impl LogFile {
    /// Writes more; `None` when nothing more will be written.
    pub(in crate::executor) async fn write(
        mut self,
        clock: Arc<dyn Clock>,
        chunks: Vec<Chunk>,
    ) -> Option<Self> {
        let (attempt, hangs) = (self.attempt, self.hangs.clone());
        match in_time(&*clock, &hangs, self.add(&chunks)).await {
            Ok(()) if self.left > 0 => Some(self),
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(%attempt, %error, "output is written to its file no more");
                None
            }
        }
    }

    async fn add(&mut self, chunks: &[Chunk]) -> io::Result<()> {
        for chunk in chunks {
            let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(chunk.bytes.len());
            self.file.write_all(&chunk.bytes[..fits]).await?;
            self.left -= fits as u64;
            if fits < chunk.bytes.len() {
                let job = self.attempt.job;
                let more = format!("\nhodei: the job wrote more: see `hodei job logs {job}`\n");
                self.left = 0;
                self.file.write_all(more.as_bytes()).await?;
                break;
            }
        }
        // What is written goes to the disk by a thread of its own, which tells only here how that went.
        self.file.flush().await
    }
}
