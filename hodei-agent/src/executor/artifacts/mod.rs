//! The way of artifacts into a workspace and out of it.

mod beneath;
mod fetch;
mod store;

use std::sync::Arc;
use std::time::Duration;

use hodei_core::artifact::Artifact;
use hodei_core::id::AttemptId;
use hodei_core::job::{FailureCause, JobSpec};
use hodei_core::port::{Clock, ClockExt};

use super::workspace::Workspace;
use super::{Job, Stop, StopSignal};
use crate::connection::{ArtifactChannel, TransferError};

/// Nothing of a transfer moves for this long: it hangs.
const STALL: Duration = Duration::from_secs(30);
/// All of a transfer takes no longer: half a megabyte a second for the longest artifact.
const LONGEST: Duration = Duration::from_secs(3600);
/// What was sent is stored within this after its end: a bucket may be far away.
const STORED: Duration = Duration::from_secs(600);
/// While the platform is away, a transfer is tried for this long from its beginning.
const GIVE_UP: Duration = Duration::from_secs(600);
/// From the first try to the second; it doubles to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Bytes of a piece.
const PIECE: usize = 256 << 10;

/// Moves the artifacts of one attempt.
pub(super) struct Transfers<'a> {
    pub(super) clock: &'a dyn Clock,
    pub(super) channel: Arc<dyn ArtifactChannel>,
    pub(super) attempt: AttemptId,
    pub(super) spec: &'a JobSpec,
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
}

impl From<FailureCause> for NotMoved {
    fn from(cause: FailureCause) -> Self {
        Self::Failed(cause)
    }
}

impl<'a> Transfers<'a> {
    pub(super) fn new(clock: &'a dyn Clock, job: &'a Job) -> Self {
        Self { clock, channel: job.artifacts.clone(), attempt: job.attempt, spec: &job.spec }
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

    /// Stores what is to be kept, unless it is stopped. Of an attempt that `failed` only what is kept of those, and only
    /// what is there.
    pub(super) async fn store_all(
        &self,
        workspace: &Workspace,
        failed: bool,
        stop: &StopSignal,
    ) -> Result<Vec<Artifact>, NotMoved> {
        let store = async {
            let mut stored = Vec::new();
            for file in store::files(workspace, self.spec.outputs(), failed)? {
                match self.persist(|| store::store(self, workspace, &file)).await {
                    Ok(artifact) => stored.push(artifact),
                    // Of a failure is kept what can be.
                    Err(NotMoved::Failed(why)) if failed => {
                        tracing::warn!(attempt = %self.attempt, %file, %why, "a file of a failure is not kept");
                    }
                    Err(why) => return Err(why),
                }
            }
            Ok(stored)
        };
        self.unless_stopped(store, stop).await
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
        let (begun, mut pause) = (self.clock.monotonic(), PAUSE);
        loop {
            let stuck = |_| Trouble::There(TransferError::Unavailable("it takes too long".into()));
            let tried = self.clock.timeout(LONGEST, transfer()).await;
            let why = match tried.map_err(stuck).and_then(|tried| tried) {
                Ok(done) => return Ok(done),
                Err(Trouble::Here(cause)) => return Err(cause.into()),
                Err(Trouble::There(TransferError::Fenced)) => return Err(NotMoved::Fenced),
                Err(Trouble::There(TransferError::Refused(why))) => {
                    return Err(FailureCause::Artifact(why).into());
                }
                Err(Trouble::There(TransferError::Broken(why))) => {
                    return Err(FailureCause::Infrastructure(why).into());
                }
                Err(Trouble::There(TransferError::Unavailable(why))) => why,
            };
            if self.clock.monotonic().saturating_sub(begun) >= GIVE_UP {
                let why = format!("its artifacts cannot be moved: {why}");
                return Err(FailureCause::Infrastructure(why).into());
            }
            tracing::debug!(attempt = %self.attempt, why, "an artifact is moved once more");
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
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
    There(TransferError),
}

impl From<TransferError> for Trouble {
    fn from(error: TransferError) -> Self {
        Self::There(error)
    }
}
