//! The channels of the bus, and which event travels on which.
//!
//! A message is a hint: everything stays correct, only slower, when any of them is lost.

use super::DomainEvent;

/// Jobs that the coordinator should look at; to the JobCoordinator.
pub const JOB_QUEUE_CHANNEL: &str = "job.queue";
/// Workers with room; to the JobCoordinator.
pub const WORKER_READY_CHANNEL: &str = "worker.ready";
/// Orders to carry out; to the WorkerProvisioningService.
pub const WORKER_PROVISION_CHANNEL: &str = "worker.provision";
/// Work for a worker whose stream another daemon holds; to the DispatchRelay of that daemon.
pub const WORKER_DISPATCH_CHANNEL: &str = "worker.dispatch";
/// Output that followers at other daemons wait for; to their DispatchRelay.
pub const JOB_OUTPUT_CHANNEL: &str = "job.output";
/// Renewed leases; to the HealthMonitor.
pub const WORKER_HEARTBEAT_CHANNEL: &str = "worker.heartbeat";

/// Every channel.
pub const ALL: [&str; 6] = [
    JOB_QUEUE_CHANNEL,
    WORKER_READY_CHANNEL,
    WORKER_PROVISION_CHANNEL,
    WORKER_DISPATCH_CHANNEL,
    JOB_OUTPUT_CHANNEL,
    WORKER_HEARTBEAT_CHANNEL,
];

/// The channel an event travels on, if any: what somebody waits for.
pub fn of(event: &DomainEvent) -> Option<&'static str> {
    match event {
        DomainEvent::JobQueued { .. }
        | DomainEvent::JobWaiting { .. }
        | DomainEvent::JobCancelled { .. }
        | DomainEvent::JobTimedOut { .. } => Some(JOB_QUEUE_CHANNEL),
        DomainEvent::WorkerReadyForJob { .. }
        | DomainEvent::WorkerRegistered { .. }
        | DomainEvent::WorkerDraining { .. }
        | DomainEvent::WorkerLost { .. }
        | DomainEvent::WorkerTerminated { .. }
        | DomainEvent::ProviderRegistered { .. }
        | DomainEvent::ProviderUpdated { .. }
        | DomainEvent::ProviderHealthChanged { .. } => Some(WORKER_READY_CHANNEL),
        DomainEvent::WorkerProvisioningRequested { .. } => Some(WORKER_PROVISION_CHANNEL),
        DomainEvent::WorkerDispatchRequested { .. } => Some(WORKER_DISPATCH_CHANNEL),
        DomainEvent::JobOutputStored { .. } => Some(JOB_OUTPUT_CHANNEL),
        DomainEvent::WorkerHeartbeat { .. } => Some(WORKER_HEARTBEAT_CHANNEL),
        _ => None,
    }
}
