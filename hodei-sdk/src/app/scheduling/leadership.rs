use hodei_core::port::{COORDINATOR_LEASE, Epoch};
use hodei_core::scheduling::QueueStatus;

use crate::app::cluster::membership::Membership;
use crate::app::retention::RetentionService;
use crate::app::scheduling::coordinator::{CoordinatorEnd, CoordinatorParts, JobCoordinator};
use crate::app::scheduling::planning::PlanSource;
use crate::app::scheduling::service::SchedulingService;
use crate::app::workers::health::HealthMonitor;

/// What one daemon of a store does for all: it schedules, watches over the workers, and forgets what is old. It waits
/// until it may, and again when another took over.
pub(crate) struct Leadership {
    pub(crate) membership: Membership,
    pub(crate) parts: CoordinatorParts,
    pub(crate) scheduler: PlanSource,
    pub(crate) health: HealthMonitor,
    pub(crate) retention: RetentionService,
}

impl Leadership {
    /// Leads whenever it may, until the platform stops.
    pub(crate) async fn run(self) {
        let draining = self.parts.draining.clone();
        loop {
            let epoch = tokio::select! {
                biased;
                () = draining.cancelled() => return,
                epoch = self.membership.acquire(COORDINATOR_LEASE) => epoch,
            };
            tracing::info!(epoch = epoch.0, "this daemon coordinates");
            let coordinated = async {
                match self.coordinator(epoch).run().await {
                    CoordinatorEnd::Deposed => {}
                    // Those that still run are watched over to the end.
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
                tracing::warn!("another coordinator is active: this one steps down");
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
