//! Transfers artifacts into a workspace and out of it.

mod beneath;
mod fetch;
mod listing;
mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hodei_core::artifact::{Artifact, WorkspacePath};
use hodei_core::id::AttemptId;
use hodei_core::job::{FailureCause, JobSpec};
use hodei_core::port::{Clock, ClockExt};
use tokio::sync::Semaphore;

use crate::connection::{ArtifactChannel, TransferError};
use crate::executor::blocking::blocking;
use crate::executor::secrets::Needles;
use crate::executor::workspace::Workspace;
use crate::executor::{Job, Stop, StopSignal};

/// Timeout of one step of a transfer: a longer step counts as stalled.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of a transfer with all its retries: half a megabyte a second for the longest artifact.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3600);
/// Timeout of the store's confirmation after the last byte: a bucket may be far away.
const STORE_ACK_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a transfer is retried without progress, while the platform is away or has no place for it.
const AWAY_TIMEOUT: Duration = Duration::from_secs(600);
/// Delay before the first retry; doubles up to [`MAX_RETRY_INTERVAL`].
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Number of bytes per message.
const PIECE_BYTES: usize = 256 << 10;
/// Maximum number of files of one attempt that are stored at once.
const MAX_CONCURRENT_FILES: usize = 16;
/// Maximum total length of the files that are stored at once, in bytes: a longer file is stored alone.
const MAX_CONCURRENT_BYTES: u32 = 8 << 20;

/// Transfers the artifacts of one attempt.
pub(super) struct Transfers<'a> {
    pub(super) clock: &'a dyn Clock,
    pub(super) channel: Arc<dyn ArtifactChannel>,
    pub(super) attempt: AttemptId,
    pub(super) spec: &'a JobSpec,
    /// The secrets that no file name may contain: names are stored and shown unmasked.
    needles: Option<Arc<Needles>>,
    /// Time of the last progress, in microseconds of the monotonic clock.
    moved_at: AtomicU64,
}

/// Why artifacts were not transferred.
#[derive(Debug)]
pub(super) enum NotMoved {
    /// The attempt fails.
    Failed(FailureCause),
    /// The attempt is stopped.
    Stopped(Stop),
    /// The platform no longer accepts the attempt.
    Fenced,
    /// A file cannot be read, for this reason.
    PassedOver(String),
}

impl From<FailureCause> for NotMoved {
    fn from(cause: FailureCause) -> Self {
        Self::Failed(cause)
    }
}

impl<'a> Transfers<'a> {
    pub(super) fn new(clock: &'a dyn Clock, job: &'a Job) -> Self {
        let (channel, moved_at) = (job.artifacts.clone(), AtomicU64::new(0));
        Self { clock, channel, attempt: job.attempt, spec: &job.spec, needles: None, moved_at }
    }

    /// Sets the secrets that no file name may contain.
    pub(super) fn hiding(self, needles: Option<Arc<Needles>>) -> Self {
        Self { needles, ..self }
    }

    /// Fetches all inputs into the workspace, unless the attempt is stopped.
    pub(super) async fn fetch_all(&self, workspace: &Workspace, stop: &StopSignal) -> Result<(), NotMoved> {
        let fetch = async {
            for input in self.spec.inputs() {
                self.persist(|| fetch::fetch(self, workspace, input)).await?;
            }
            Ok(())
        };
        self.unless_stopped(fetch, stop).await
    }

    /// Stores the outputs, unless the attempt is stopped. Fills `stored` as it goes, and `notes` with the reasons of
    /// skipped files. For a `failed` attempt, stores only the outputs that are kept on failure, as far as they exist.
    pub(super) async fn store_all(
        &self,
        workspace: &Workspace,
        failed: bool,
        stop: &StopSignal,
        stored: &mut Vec<Artifact>,
        notes: &mut Vec<String>,
    ) -> Result<(), NotMoved> {
        let (dir, outputs) = (workspace.dir().to_owned(), self.spec.outputs().to_vec());
        let store = async {
            let of_listing = dir.clone();
            // Large trees and slow disks take long.
            let listing = blocking(move || listing::list(&of_listing, &outputs, failed)).await;
            let listing = listing.ok_or_else(|| FailureCause::Infrastructure("the agent ends".into()))??;
            notes.extend(listing.notes);
            let room = Semaphore::new(MAX_CONCURRENT_BYTES as usize);
            let (dir, room) = (&*dir, &room);
            let mut keepable = listing.keepable;
            // Names are stored and shown unmasked.
            if let Some(hidden) = keepable.iter().find_map(|keepable| self.hidden(&keepable.path))
                && !failed
            {
                let why = format!(
                    "`{hidden}` has the value of a secret in its name, which would be stored and shown: rename the file"
                );
                return Err(FailureCause::Artifact(why).into());
            }
            keepable.retain(|keepable| match self.hidden(&keepable.path) {
                Some(hidden) => {
                    notes.push(format!("`{hidden}` has a secret in its name"));
                    false
                }
                None => true,
            });
            let storing = keepable.into_iter().map(|keepable| async move {
                let bytes = std::fs::symlink_metadata(dir.join(keepable.path.as_str()))
                    .map_or(0, |about| about.len());
                let bytes =
                    u32::try_from(bytes).unwrap_or(MAX_CONCURRENT_BYTES).clamp(1, MAX_CONCURRENT_BYTES);
                // Never fails: the semaphore is never closed.
                let _room = room.acquire_many(bytes).await;
                let stored = self.persist(|| store::store(self, dir, &keepable)).await;
                (keepable, stored)
            });
            let mut storing = stream::iter(storing).buffered(MAX_CONCURRENT_FILES);
            while let Some((keepable, outcome)) = storing.next().await {
                match outcome {
                    Ok(artifact) => stored.push(artifact),
                    // A failed attempt keeps as much as possible, but does not wait for a platform that is away.
                    Err(NotMoved::Failed(why)) if failed && why.kind().is_users() => {
                        notes.push(why.to_string())
                    }
                    // The file itself is unreadable.
                    Err(NotMoved::PassedOver(why)) if failed || !keepable.is_named => notes.push(why),
                    Err(NotMoved::PassedOver(why)) => return Err(FailureCause::Artifact(why).into()),
                    Err(why) => return Err(why),
                }
            }
            Ok(())
        };
        self.unless_stopped(store, stop).await
    }

    /// Returns the masked name of a file if it contains a secret.
    fn hidden(&self, file: &WorkspacePath) -> Option<String> {
        let shown = self.needles.as_ref()?.masked(file.as_str());
        (shown != file.as_str()).then_some(shown)
    }

    async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, NotMoved>>,
        stop: &StopSignal,
    ) -> Result<T, NotMoved> {
        let mut stop = stop.clone();
        let stopped = async {
            match stop.wait_for(Option::is_some).await.map(|asked| *asked) {
                Ok(Some(asked)) => asked,
                // The sender is gone, so no stop can come.
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            asked = stopped => Err(NotMoved::Stopped(asked)),
            done = work => done,
        }
    }

    /// Retries a transfer until it succeeds, is refused or runs out of time.
    async fn persist<T, F>(&self, mut transfer: impl FnMut() -> F) -> Result<T, NotMoved>
    where
        T: Send,
        F: Future<Output = Result<T, TryError>> + Send,
    {
        let (begun, mut pause, mut away) = (self.clock.monotonic(), RETRY_INTERVAL, Duration::ZERO);
        loop {
            self.moved();
            let left = TRANSFER_TIMEOUT.saturating_sub(self.clock.monotonic().saturating_sub(begun));
            let stuck =
                |_| TryError::Remote(TransferError::Unavailable("the transfer takes too long".into()));
            let tried = self.clock.timeout(left, transfer()).await;
            let why = match tried.map_err(stuck).and_then(|tried| tried) {
                Ok(done) => return Ok(done),
                Err(TryError::Local(cause)) => return Err(cause.into()),
                Err(TryError::Unreadable(why)) => return Err(NotMoved::PassedOver(why)),
                Err(TryError::Remote(TransferError::Fenced)) => return Err(NotMoved::Fenced),
                Err(TryError::Remote(TransferError::Refused(why))) => {
                    return Err(FailureCause::Artifact(why).into());
                }
                Err(TryError::Remote(TransferError::Broken(why))) => {
                    return Err(FailureCause::Infrastructure(why).into());
                }
                Err(TryError::Remote(TransferError::Unavailable(why))) => why,
            };
            let now = self.clock.monotonic();
            away += now.saturating_sub(Duration::from_micros(self.moved_at.load(Ordering::Relaxed)));
            if away >= AWAY_TIMEOUT || now.saturating_sub(begun) >= TRANSFER_TIMEOUT {
                let why = format!("its artifacts cannot be transferred: {why}");
                return Err(FailureCause::Infrastructure(why).into());
            }
            tracing::debug!(attempt = %self.attempt, why, "retrying the transfer of an artifact");
            self.clock.sleep(pause).await;
            (away, pause) = (away + pause, (pause * 2).min(MAX_RETRY_INTERVAL));
        }
    }

    fn moved(&self) {
        self.moved_at.store(self.clock.monotonic().as_micros() as u64, Ordering::Relaxed);
    }

    /// Runs one step of a transfer within [`STALL_TIMEOUT`].
    async fn soon<T: Send>(&self, work: impl Future<Output = T> + Send) -> Result<T, TryError> {
        let stalled = |_| TryError::Remote(TransferError::Unavailable("the transfer stalled".into()));
        self.clock.timeout(STALL_TIMEOUT, work).await.map_err(stalled)
    }
}

/// The error of one try.
#[derive(Debug)]
enum TryError {
    Local(FailureCause),
    /// A file to keep cannot be read.
    Unreadable(String),
    Remote(TransferError),
}

impl From<TransferError> for TryError {
    fn from(error: TransferError) -> Self {
        Self::Remote(error)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use hodei_core::id::JobId;
    use hodei_core::port::BoxFuture;
    use hodei_core::time::Timestamp;
    use hodei_proto::v1;
    use tokio::sync::mpsc;
    use uuid::Uuid;

    use super::*;
    use crate::connection::ArtifactParts;

    /// A clock that advances by each sleep.
    #[derive(Debug, Default)]
    struct SteppedClock(Arc<Mutex<Duration>>);

    impl SteppedClock {
        fn add(&self, time: Duration) {
            *self.0.lock().unwrap() += time;
        }
    }

    impl Clock for SteppedClock {
        fn now(&self) -> Timestamp {
            Timestamp::EPOCH
        }

        fn monotonic(&self) -> Duration {
            *self.0.lock().unwrap()
        }

        fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
            let at = self.0.clone();
            Box::pin(async move { *at.lock().unwrap() += time })
        }
    }

    #[derive(Debug)]
    struct Nothing;

    #[async_trait]
    impl ArtifactChannel for Nothing {
        async fn fetch(&self, _: v1::FetchRequest) -> Result<ArtifactParts, TransferError> {
            Err(TransferError::Fenced)
        }

        async fn store(&self, _: mpsc::Receiver<v1::StoreRequest>) -> Result<(), TransferError> {
            Err(TransferError::Fenced)
        }
    }

    /// Runs tries of `takes` seconds each, of which the first `failures` fail, with progress if `moves`. Returns
    /// whether the transfer succeeded, and when in seconds.
    async fn persisted(takes: u64, failures: u32, moves: bool) -> (bool, u64) {
        let clock = SteppedClock::default();
        let attempt = AttemptId { job: JobId::from_uuid(Uuid::from_u128(1)), number: 1 };
        let spec = JobSpec::command(["true"]).build().unwrap();
        let (channel, moved_at) = (Arc::new(Nothing), AtomicU64::new(0));
        let transfers = Transfers { clock: &clock, channel, attempt, spec: &spec, needles: None, moved_at };
        let mut left = failures;
        let done = transfers.persist(|| {
            clock.add(Duration::from_secs(takes));
            if moves {
                transfers.moved();
            }
            let fails = left > 0;
            left = left.saturating_sub(1);
            let away = || TryError::Remote(TransferError::Unavailable("away".into()));
            std::future::ready(if fails { Err(away()) } else { Ok(()) })
        });
        (done.await.is_ok(), clock.monotonic().as_secs())
    }

    #[tokio::test]
    async fn the_wait_for_a_platform_counts_from_the_last_progress() {
        assert_eq!(persisted(1000, 1, true).await, (true, 2000), "a long successful part does not count");
        let (done, at) = persisted(0, u32::MAX, false).await;
        assert!(!done && (600..606).contains(&at), "{at}");
        let (done, at) = persisted(600, u32::MAX, false).await;
        assert!(!done && at == 600, "without progress: {at}");
        let (done, at) = persisted(300, u32::MAX, true).await;
        assert!(!done && (3600..3901).contains(&at), "with progress, up to the timeout: {at}");
    }
}
