use std::sync::Arc;
use std::time::Duration;

use hodei_core::event::Actor;
use hodei_core::port::{Clock, Store};
use hodei_core::worker::{WorkerInput, WorkerStatus};
use tokio_util::sync::CancellationToken;

use super::WorkerLifecycleManager;

/// The friendly end of a platform that runs jobs.
#[derive(Debug)]
pub(crate) struct Shutdown {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) lifecycle: WorkerLifecycleManager,
    /// Ends assignment.
    pub(crate) draining: CancellationToken,
    /// How long running jobs may go on.
    pub(crate) limit: Duration,
}

/// Between two looks at what still runs.
const LOOK: Duration = Duration::from_millis(20);

impl Shutdown {
    /// Assigns nothing more. Workers give back what they have not started and finish what runs; what is left at the
    /// end of the limit is killed and may run again.
    pub(crate) async fn drain(&self) {
        self.draining.cancel();
        let deadline = self.clock.monotonic() + self.limit;
        if !self.limit.is_zero() {
            for worker in self.store.live_workers().await.unwrap_or_default() {
                if matches!(worker.status(), WorkerStatus::Ready | WorkerStatus::Busy) {
                    let drain = WorkerInput::Drain("the platform shuts down".into());
                    self.lifecycle.change(worker.id(), Actor::Platform, drain).await;
                }
            }
        }
        while self.clock.monotonic() < deadline && self.is_busy().await {
            self.clock.sleep(LOOK).await;
        }
        for worker in self.store.live_workers().await.unwrap_or_default() {
            self.lifecycle.stop(worker.id()).await;
        }
    }

    async fn is_busy(&self) -> bool {
        for worker in self.store.live_workers().await.unwrap_or_default() {
            if self.store.jobs_of_worker(worker.id()).await.is_ok_and(|jobs| !jobs.is_empty()) {
                return true;
            }
        }
        false
    }
}
