//! Leadership: runs the tasks that one daemon does for all daemons of a store, while it holds the coordinator's lease.

use hodei_core::port::{COORDINATOR_LEASE, Epoch};
use hodei_core::scheduling::QueueStatus;

use crate::app::cluster::membership::Membership;
use crate::app::retention::RetentionService;
use crate::app::scheduling::coordinator::{CoordinatorEnd, CoordinatorParts, JobCoordinator};
use crate::app::scheduling::planning::PlanSource;
use crate::app::scheduling::service::SchedulingService;
use crate::app::workers::health::HealthMonitor;

/// The tasks that one daemon of a store does for all: scheduling, watching the health of workers, and retention. It
/// waits for the coordinator's lease, and waits again when another daemon took it over.
pub(crate) struct Leadership {
    pub(crate) membership: Membership,
    pub(crate) parts: CoordinatorParts,
    pub(crate) scheduler: PlanSource,
    pub(crate) health: HealthMonitor,
    pub(crate) retention: RetentionService,
}

impl Leadership {
    /// Leads whenever this daemon holds the lease, until the platform stops.
    pub(crate) async fn run(self) {
        let draining = self.parts.draining.clone();
        loop {
            let epoch = tokio::select! {
                biased;
                () = draining.cancelled() => return,
                epoch = self.membership.acquire(COORDINATOR_LEASE) => epoch,
            };
            tracing::info!(epoch = epoch.0, "this daemon is the coordinator now");
            let coordinated = async {
                match self.coordinator(epoch).run().await {
                    CoordinatorEnd::Deposed => {}
                    // Keep watching the health of workers whose jobs still run.
                    CoordinatorEnd::Stopped => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = coordinated => {}
                () = self.membership.lost(COORDINATOR_LEASE, epoch) => {}
                () = self.health.watch() => {}
                () = self.retention.run() => {}
            }
            self.membership.set_queue(QueueStatus::default());
            if self.membership.with(|cluster, now| cluster.is_held(COORDINATOR_LEASE, now)) {
                tracing::warn!("another daemon took over as coordinator: this one steps down");
            }
            if !self.membership.is_shared() {
                return;
            }
        }
    }

    fn coordinator(&self, epoch: Epoch) -> JobCoordinator {
        let (ports, scheduler) = (self.parts.ports.clone(), self.scheduler.clone());
        let scheduling = SchedulingService::new(ports, scheduler, epoch, self.membership.clone());
        JobCoordinator::new(self.parts.clone(), scheduling, epoch)
    }
}
