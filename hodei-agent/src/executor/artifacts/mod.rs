//! The way of artifacts into a workspace and out of it.

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

/// Nothing of a transfer moves for this long: it hangs.
const STALL: Duration = Duration::from_secs(30);
/// All of a transfer takes no longer, however often it is begun: half a megabyte a second for the longest artifact.
const LONGEST: Duration = Duration::from_secs(3600);
/// What was sent is stored within this after its end: a bucket may be far away.
const STORED: Duration = Duration::from_secs(600);
/// While nothing of it moves, since the platform is away or has no place for it, a transfer is tried for this long.
const GIVE_UP: Duration = Duration::from_secs(600);
/// From the first try to the second; it doubles to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Bytes of a piece.
const PIECE: usize = 256 << 10;
/// Files of one attempt that are stored at once, where they are small.
const MAX_AT_ONCE: usize = 16;
/// Bytes of files that are stored at once: a longer one goes alone.
const MAX_BYTES_AT_ONCE: u32 = 8 << 20;

/// Moves the artifacts of one attempt.
pub(super) struct Transfers<'a> {
    pub(super) clock: &'a dyn Clock,
    pub(super) channel: Arc<dyn ArtifactChannel>,
    pub(super) attempt: AttemptId,
    pub(super) spec: &'a JobSpec,
    /// What no name of a file may have in it: names are stored and shown as they are.
    needles: Option<Arc<Needles>>,
    /// When a piece was moved last, in microseconds of the monotonic clock.
    moved_at: AtomicU64,
}

/// Why they were not moved.
#[derive(Debug)]
pub(super) enum NotMoved {
    /// A failure of the attempt.
    Failed(FailureCause),
    /// The attempt is stopped, for this reason.
    Stopped(Stop),
    /// Nobody wants to hear of it any more.
    Fenced,
    /// It cannot be read, for this reason.
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

    /// The same, for files whose names may have one of these in them.
    pub(super) fn hiding(self, needles: Option<Arc<Needles>>) -> Self {
        Self { needles, ..self }
    }

    /// Puts all inputs into the workspace, unless it is stopped.
    pub(super) async fn fetch_all(&self, workspace: &Workspace, stop: &StopSignal) -> Result<(), NotMoved> {
        let fetch = async {
            for input in self.spec.inputs() {
                self.persist(|| fetch::fetch(self, workspace, input)).await?;
            }
            Ok(())
        };
        self.unless_stopped(fetch, stop).await
    }

    /// Stores what is to be kept, unless it is stopped, and tells what it has `stored` so far and what it passed over. Of an
    /// attempt that `failed` only what is kept of those, and only what is there.
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
            // Trees may be large, and disks slow.
            let listing = blocking(move || listing::list(&of_listing, &outputs, failed)).await;
            let listing = listing.ok_or_else(|| FailureCause::Infrastructure("its agent ends".into()))??;
            notes.extend(listing.notes);
            let room = Semaphore::new(MAX_BYTES_AT_ONCE as usize);
            let (dir, room) = (&*dir, &room);
            let mut keepable = listing.keepable;
            // A name is shown and stored as it is.
            if let Some(hidden) = keepable.iter().find_map(|keepable| self.hidden(&keepable.path))
                && !failed
            {
                let why = format!(
                    "`{hidden}` has the value of a secret in its name, which is shown and stored as it is"
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
                let bytes = u32::try_from(bytes).unwrap_or(MAX_BYTES_AT_ONCE).clamp(1, MAX_BYTES_AT_ONCE);
                // It is never closed.
                let _room = room.acquire_many(bytes).await;
                let stored = self.persist(|| store::store(self, dir, &keepable)).await;
                (keepable, stored)
            });
            let mut storing = stream::iter(storing).buffered(MAX_AT_ONCE);
            while let Some((keepable, outcome)) = storing.next().await {
                match outcome {
                    Ok(artifact) => stored.push(artifact),
                    // Of a failure is kept what can be, but it is held up by no platform that is away.
                    Err(NotMoved::Failed(why)) if failed && why.kind().is_users() => {
                        notes.push(why.to_string())
                    }
                    // It is not the platform that refuses it.
                    Err(NotMoved::PassedOver(why)) if failed || !keepable.is_named => notes.push(why),
                    Err(NotMoved::PassedOver(why)) => return Err(FailureCause::Artifact(why).into()),
                    Err(why) => return Err(why),
                }
            }
            Ok(())
        };
        self.unless_stopped(store, stop).await
    }

    /// A name that has a secret in it, without that.
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
                // Nobody is left to stop it.
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            asked = stopped => Err(NotMoved::Stopped(asked)),
            done = work => done,
        }
    }

    /// Tries until it is done, refused, or the platform was away for too long.
    async fn persist<T, F>(&self, mut transfer: impl FnMut() -> F) -> Result<T, NotMoved>
    where
        T: Send,
        F: Future<Output = Result<T, Trouble>> + Send,
    {
        let (begun, mut pause, mut away) = (self.clock.monotonic(), PAUSE, Duration::ZERO);
        loop {
            self.moved();
            let left = LONGEST.saturating_sub(self.clock.monotonic().saturating_sub(begun));
            let stuck = |_| Trouble::There(TransferError::Unavailable("it takes too long".into()));
            let tried = self.clock.timeout(left, transfer()).await;
            let why = match tried.map_err(stuck).and_then(|tried| tried) {
                Ok(done) => return Ok(done),
                Err(Trouble::Here(cause)) => return Err(cause.into()),
                Err(Trouble::Unreadable(why)) => return Err(NotMoved::PassedOver(why)),
                Err(Trouble::There(TransferError::Fenced)) => return Err(NotMoved::Fenced),
                Err(Trouble::There(TransferError::Refused(why))) => {
                    return Err(FailureCause::Artifact(why).into());
                }
                Err(Trouble::There(TransferError::Broken(why))) => {
                    return Err(FailureCause::Infrastructure(why).into());
                }
                Err(Trouble::There(TransferError::Unavailable(why))) => why,
            };
            let now = self.clock.monotonic();
            away += now.saturating_sub(Duration::from_micros(self.moved_at.load(Ordering::Relaxed)));
            if away >= GIVE_UP || now.saturating_sub(begun) >= LONGEST {
                let why = format!("its artifacts cannot be moved: {why}");
                return Err(FailureCause::Infrastructure(why).into());
            }
            tracing::debug!(attempt = %self.attempt, why, "an artifact is moved once more");
            self.clock.sleep(pause).await;
            (away, pause) = (away + pause, (pause * 2).min(LONGEST_PAUSE));
        }
    }

    fn moved(&self) {
        self.moved_at.store(self.clock.monotonic().as_micros() as u64, Ordering::Relaxed);
    }

    /// What comes of something that should not take long.
    async fn soon<T: Send>(&self, work: impl Future<Output = T> + Send) -> Result<T, Trouble> {
        let stalled = |_| Trouble::There(TransferError::Unavailable("nothing moves".into()));
        self.clock.timeout(STALL, work).await.map_err(stalled)
    }
}

/// What went wrong with one try.
#[derive(Debug)]
enum Trouble {
    Here(FailureCause),
    /// A file that is to be kept cannot be read.
    Unreadable(String),
    There(TransferError),
}

impl From<TransferError> for Trouble {
    fn from(error: TransferError) -> Self {
        Self::There(error)
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

    /// Goes on by as much as is waited for.
    #[derive(Debug, Default)]
    struct Waited(Arc<Mutex<Duration>>);

    impl Waited {
        fn add(&self, time: Duration) {
            *self.0.lock().unwrap() += time;
        }
    }

    impl Clock for Waited {
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

    /// Tries that take so long, of which so many fail, after they moved something or not; returns how it ended and when.
    async fn persisted(takes: u64, failures: u32, moves: bool) -> (bool, u64) {
        let clock = Waited::default();
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
            let away = || Trouble::There(TransferError::Unavailable("away".into()));
            std::future::ready(if fails { Err(away()) } else { Ok(()) })
        });
        (done.await.is_ok(), clock.monotonic().as_secs())
    }

    #[tokio::test]
    async fn a_platform_is_waited_for_from_when_it_went_away() {
        assert_eq!(persisted(1000, 1, true).await, (true, 2000), "however long it had gone well");
        let (done, at) = persisted(0, u32::MAX, false).await;
        assert!(!done && (600..606).contains(&at), "{at}");
        let (done, at) = persisted(600, u32::MAX, false).await;
        assert!(!done && at == 600, "what is never confirmed: {at}");
        let (done, at) = persisted(300, u32::MAX, true).await;
        assert!(!done && (3600..3901).contains(&at), "what moves again and again has an end: {at}");
    }
}
