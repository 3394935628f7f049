//! Orderly shutdown of a platform that runs jobs.

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

/// Drains the platform before it stops.
#[derive(Debug)]
pub(crate) struct Shutdown {
    pub(crate) ports: Arc<Ports>,
    pub(crate) lifecycle: WorkerLifecycleManager,
    pub(crate) membership: Membership,
    /// Cancelled to stop the assignment of jobs.
    pub(crate) draining: CancellationToken,
}

/// Interval at which the remaining jobs are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Least time that workers have to give back jobs that have not started.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_millis(500);
/// Time within which agents that a reboot or a service manager ends together with the daemon report their drain.
const SIGNAL_SPREAD: Duration = Duration::from_millis(300);
/// Longest wait for the jobs of agents that end by the same signal.
const TAKE_BACK_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that agents have, after the limit, to end their jobs and to report the outcomes.
const END_JOBS_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that workers without jobs have to end.
const STOP_IDLE_TIMEOUT: Duration = Duration::from_secs(3);

impl Shutdown {
    /// Stops assignment. Workers give back jobs that have not started and finish the running ones. At the limit the
    /// remaining jobs are killed and may run again, or are left running, depending on `on_shutdown`.
    pub(crate) async fn drain(&self, limit: Duration) {
        self.draining.cancel();
        let now = self.ports.clock.monotonic();
        let (deadline, given_back) = (now + limit, now + GIVE_BACK_TIMEOUT);
        let leaves = self.ports.settings.on_shutdown == OnShutdown::Leave;
        if self.membership.is_shared() {
            if leaves {
                // Before giving up the coordinator's lease, so that no other daemon assigns them a job meanwhile.
                self.stop_idle().await;
            }
            // From now on another daemon handles the waiting jobs.
            self.membership.leave().await;
            if leaves {
                // The other daemon takes over the workers too: wait only for those that end with this daemon.
                return self.take_back(limit.min(TAKE_BACK_TIMEOUT)).await;
            }
        }
        if leaves {
            while self.ports.clock.monotonic() < deadline && self.is_busy(deadline).await {
                self.ports.clock.sleep(POLL_INTERVAL).await;
            }
            return;
        }
        for worker in self.workers().await.unwrap_or_default() {
            if worker.status() == WorkerStatus::Busy {
                let drain = WorkerInput::Drain("the platform shuts down".into());
                // A worker that misses this is stopped below anyway.
                let _ = self.lifecycle.change(worker.id(), Actor::Platform, drain).await;
            }
        }
        // Wait for unstarted jobs even with a zero limit: they are given back without using up an attempt.
        while self.ports.clock.monotonic() < deadline.max(given_back) && self.is_busy(deadline).await {
            self.ports.clock.sleep(POLL_INTERVAL).await;
        }
        let workers = self.workers().await.unwrap_or_default();
        // Jobs that do not end in this time are killed, and the end of their output may be missing.
        let _ = self.ports.clock.timeout(END_JOBS_TIMEOUT, self.end_jobs(&workers)).await;
        for worker in workers {
            self.lifecycle.stop(&worker).await;
        }
    }

    /// Asks agents to end their jobs, and waits until they have reported the outcomes.
    async fn end_jobs(&self, workers: &[Arc<Worker>]) {
        futures_util::future::join_all(workers.iter().map(|worker| self.lifecycle.evict(worker))).await;
        let ids: Vec<WorkerId> = workers.iter().map(|worker| worker.id()).collect();
        while self.ports.store.jobs_of_workers(&ids).await.is_ok_and(|jobs| !jobs.is_empty()) {
            self.ports.clock.sleep(POLL_INTERVAL).await;
        }
    }

    /// Stops workers without jobs when no other daemon takes them over. A later daemon might not reach them, for
    /// example with another data directory, and would wait for them.
    async fn stop_idle(&self) {
        if self.membership.look().await.is_err() || !self.membership.is_alone() {
            return;
        }
        let Ok(workers) = self.workers().await else { return };
        let ids: Vec<WorkerId> = workers.iter().map(|worker| worker.id()).collect();
        let Ok(jobs) = self.ports.store.jobs_of_workers(&ids).await else { return };
        let is_idle = |worker: &&Arc<Worker>| !jobs.iter().any(|job| job.worker() == Some(worker.id()));
        let stops = workers.iter().filter(is_idle).map(|worker| self.lifecycle.stop(worker));
        // Do not wait longer for a provider that does not answer.
        let _ = self.ports.clock.timeout(STOP_IDLE_TIMEOUT, futures_util::future::join_all(stops)).await;
    }

    /// Waits for the jobs of agents that end together with this daemon: their later reports would have no receiver.
    async fn take_back(&self, limit: Duration) {
        let began = self.ports.clock.monotonic();
        loop {
            self.ports.clock.sleep(POLL_INTERVAL).await;
            let waited = self.ports.clock.monotonic().saturating_sub(began);
            if waited >= limit || (waited >= SIGNAL_SPREAD && !self.has_draining_jobs().await) {
                return;
            }
        }
    }

    /// Whether a draining worker still has jobs.
    async fn has_draining_jobs(&self) -> bool {
        let Ok(workers) = self.workers().await else { return false };
        let drains = |worker: &Arc<Worker>| (worker.status() == WorkerStatus::Draining).then(|| worker.id());
        let draining: Vec<WorkerId> = workers.iter().filter_map(drains).collect();
        self.ports.store.jobs_of_workers(&draining).await.is_ok_and(|jobs| !jobs.is_empty())
    }

    /// Whether there are jobs to wait for; after the deadline only unstarted ones count. True when the store does not
    /// answer.
    async fn is_busy(&self, deadline: Duration) -> bool {
        let Ok(workers) = self.workers().await else { return true };
        let over = self.ports.clock.monotonic() >= deadline;
        let workers: Vec<WorkerId> = workers.iter().map(|worker| worker.id()).collect();
        let Ok(jobs) = self.ports.store.jobs_of_workers(&workers).await else { return true };
        jobs.iter().any(|job| !over || job.status() == JobStatus::Assigned)
    }

    /// Returns the live workers that this daemon can stop.
    async fn workers(&self) -> Result<Vec<Arc<Worker>>, StoreError> {
        let mut workers = self.ports.store.live_workers().await?;
        workers.retain(|worker| self.lifecycle.providers.contains_key(&worker.order().provider));
        Ok(workers)
    }
}
