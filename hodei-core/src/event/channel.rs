//! The channels of the event bus, and the channel of each event.
//!
//! A message is a hint: when one is lost, everything stays correct and only becomes slower.

use super::DomainEvent;

/// Jobs for the coordinator to look at; read by the JobCoordinator.
pub const JOB_QUEUE_CHANNEL: &str = "job.queue";
/// Workers and providers whose state may allow an assignment; read by the JobCoordinator.
pub const WORKER_READY_CHANNEL: &str = "worker.ready";
/// Orders to carry out; read by the WorkerProvisioningService.
pub const WORKER_PROVISION_CHANNEL: &str = "worker.provision";
/// Work for a worker whose stream another daemon holds; read by the RemoteDispatch of that daemon.
pub const WORKER_DISPATCH_CHANNEL: &str = "worker.dispatch";
/// Output that followers at other daemons wait for; read by their RemoteDispatch.
pub const JOB_OUTPUT_CHANNEL: &str = "job.output";
/// Renewed leases; read by the HealthMonitor.
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

/// Returns the channel of an event; `None` when no component waits for the event.
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
