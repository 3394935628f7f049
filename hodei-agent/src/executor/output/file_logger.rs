//! Writes the output of attempts to files of the worker.

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

/// Also writes the output of each attempt to a file of the worker, `JOB.ATTEMPT.log`, as the platform receives it: both
/// streams in the order in which they were read, with secrets masked. The owner of the directory has to remove old
/// files.
///
/// If it cannot write, jobs go on without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLogger {
    /// The directory, created if missing.
    pub dir: PathBuf,
    /// Maximum length of a file in bytes; a last line says that there was more output.
    pub limit: u64,
}

/// The files of all attempts of an executor.
#[derive(Debug, Clone)]
pub(in crate::executor) struct LogFiles {
    logger: FileLogger,
    /// Whether an access to the directory hung once: each further one would occupy a thread.
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

/// Timeout of an access to the disk, which delays output.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

impl FileLogger {
    /// Creates a logger with files of at most 64 MiB each.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), limit: 64 << 20 }
    }
}

impl LogFiles {
    pub(in crate::executor) fn new(logger: FileLogger) -> Self {
        Self { logger, hangs: Arc::default() }
    }

    /// Creates the file of an attempt. Returns `None` and logs a warning if that fails.
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
                tracing::warn!(%attempt, %error, path = %path.display(), "cannot create the output file: the job runs without it");
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
    clock.timeout(WRITE_TIMEOUT, work).await.unwrap_or_else(|elapsed| {
        hangs.store(true, Ordering::Relaxed);
        tracing::error!("the directory for output files hangs and is no longer used");
        Err(io::Error::other(elapsed))
    })
}

async fn create(dir: &Path, path: &Path) -> io::Result<File> {
    tokio::fs::create_dir_all(dir).await?;
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).await
}

impl LogFile {
    /// Writes chunks. Returns `None` if the file takes no more.
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
                tracing::warn!(%attempt, %error, "cannot write the output file: the job goes on without it");
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
        // tokio writes on another thread and reports errors only on flush.
        self.file.flush().await
    }
}
