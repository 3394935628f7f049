use std::sync::Arc;
use std::time::Duration;

use hodei_core::event::Actor;
use hodei_core::id::WorkerId;
use hodei_core::job::JobStatus;
use hodei_core::port::{ClockExt, StoreError};
use hodei_core::worker::{Worker, WorkerInput, WorkerStatus};
use tokio_util::sync::CancellationToken;

use crate::app::cluster::membership::Membership;
use crate::app::ports::Ports;
use crate::app::workers::lifecycle::WorkerLifecycleManager;
use crate::config::OnShutdown;

/// The friendly end of a platform that runs jobs.
#[derive(Debug)]
pub(crate) struct Shutdown {
    pub(crate) ports: Arc<Ports>,
    pub(crate) lifecycle: WorkerLifecycleManager,
    pub(crate) membership: Membership,
    pub(crate) on_shutdown: OnShutdown,
    /// Ends assignment.
    pub(crate) draining: CancellationToken,
}

/// Between two looks at what still runs.
const LOOK: Duration = Duration::from_millis(20);
/// How long jobs that have not started are waited for.
const GIVE_BACK: Duration = Duration::from_millis(500);
/// A reboot, or a service manager, ends the agents with their daemon: within this they have said so.
const SIGNAL_SPREAD: Duration = Duration::from_millis(300);
/// How long jobs of such agents are waited for that end by the same signal.
const TAKE_BACK: Duration = Duration::from_secs(10);
/// How long agents may take to end their jobs at the end of the limit, and to say how.
const END_JOBS: Duration = Duration::from_secs(2);
/// How long workers without jobs may take to end.
const STOP_IDLE: Duration = Duration::from_secs(3);

impl Shutdown {
    /// Assigns nothing more. Workers give back what they have not started and finish what runs; what is left at the
    /// end of the limit is killed and may run again, or left where it is.
    pub(crate) async fn drain(&self, limit: Duration) {
        self.draining.cancel();
        let now = self.ports.clock.monotonic();
        let (deadline, given_back) = (now + limit, now + GIVE_BACK);
        let leaves = self.on_shutdown == OnShutdown::Leave;
        if self.membership.is_shared() {
            if leaves {
                // While this daemon holds the lease of the coordinator: no other gives them a job meanwhile.
                self.stop_idle().await;
            }
            // Another daemon goes on with what waits, from now.
            self.membership.leave().await;
            if leaves {
                // It takes over the workers too: only those that end with this daemon are waited for.
                return self.take_back(limit.min(TAKE_BACK)).await;
            }
        }
        if leaves {
            while self.ports.clock.monotonic() < deadline && self.is_busy(deadline).await {
                self.ports.clock.sleep(LOOK).await;
            }
            return;
        }
        for worker in self.workers().await.unwrap_or_default() {
            if worker.status() == WorkerStatus::Busy {
                let drain = WorkerInput::Drain("the platform shuts down".into());
                // A worker that does not hear it is stopped at the end all the same.
                let _ = self.lifecycle.change(worker.id(), Actor::Platform, drain).await;
            }
        }
        // What waits in a worker comes back even when nothing may go on: it has not started, and pays nothing.
        while self.ports.clock.monotonic() < deadline.max(given_back) && self.is_busy(deadline).await {
            self.ports.clock.sleep(LOOK).await;
        }
        let workers = self.workers().await.unwrap_or_default();
        // What they do not end within it is killed, and the last of its output may be missing.
        let _ = self.ports.clock.timeout(END_JOBS, self.end_jobs(&workers)).await;
        for worker in workers {
            self.lifecycle.stop(worker.id()).await;
        }
    }

    /// Lets agents end their jobs, and waits until they have said how.
    async fn end_jobs(&self, workers: &[Arc<Worker>]) {
        futures_util::future::join_all(workers.iter().map(|worker| self.lifecycle.evict(worker))).await;
        let ids: Vec<WorkerId> = workers.iter().map(|worker| worker.id()).collect();
        while self.ports.store.jobs_of_workers(&ids).await.is_ok_and(|jobs| !jobs.is_empty()) {
            self.ports.clock.sleep(LOOK).await;
        }
    }

    /// Stops workers without jobs where no other daemon takes them over. The next one may never hear of them, as with
    /// another data directory, and would wait for them.
    async fn stop_idle(&self) {
        if self.membership.look().await.is_err() || !self.membership.is_alone() {
            return;
        }
        let Ok(workers) = self.workers().await else { return };
        let ids: Vec<WorkerId> = workers.iter().map(|worker| worker.id()).collect();
        let Ok(jobs) = self.ports.store.jobs_of_workers(&ids).await else { return };
        let is_idle = |id: &WorkerId| !jobs.iter().any(|job| job.worker() == Some(*id));
        let stops = ids.into_iter().filter(is_idle).map(|worker| self.lifecycle.stop(worker));
        // A provider that does not answer holds up the end no longer.
        let _ = self.ports.clock.timeout(STOP_IDLE, futures_util::future::join_all(stops)).await;
    }

    /// Waits for what agents give back that were told to end with this daemon: later nobody would hear them.
    async fn take_back(&self, limit: Duration) {
        let began = self.ports.clock.monotonic();
        loop {
            self.ports.clock.sleep(LOOK).await;
            let waited = self.ports.clock.monotonic().saturating_sub(began);
            if waited >= limit || (waited >= SIGNAL_SPREAD && !self.is_given_back_to().await) {
                return;
            }
        }
    }

    /// Whether a worker that drains has jobs.
    async fn is_given_back_to(&self) -> bool {
        let Ok(workers) = self.workers().await else { return false };
        let drains = |worker: &Arc<Worker>| (worker.status() == WorkerStatus::Draining).then(|| worker.id());
        let draining: Vec<WorkerId> = workers.iter().filter_map(drains).collect();
        self.ports.store.jobs_of_workers(&draining).await.is_ok_and(|jobs| !jobs.is_empty())
    }

    /// Whether something is worth waiting for; after the deadline only what can be given back. A store that does not
    /// answer may have it.
    async fn is_busy(&self, deadline: Duration) -> bool {
        let Ok(workers) = self.workers().await else { return true };
        let over = self.ports.clock.monotonic() >= deadline;
        let workers: Vec<WorkerId> = workers.iter().map(|worker| worker.id()).collect();
        let Ok(jobs) = self.ports.store.jobs_of_workers(&workers).await else { return true };
        jobs.iter().any(|job| !over || job.status() == JobStatus::Assigned)
    }

    /// The workers that this daemon can stop.
    async fn workers(&self) -> Result<Vec<Arc<Worker>>, StoreError> {
        let mut workers = self.ports.store.live_workers().await?;
        workers.retain(|worker| self.lifecycle.providers.contains_key(&worker.order().provider));
        Ok(workers)
    }
}
