//! Every event with its producer and its consumer; docs/events.md is made from it.

use super::DomainEvent;

/// One row of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Catalogue {
    /// The variant's name.
    pub name: &'static str,
    /// What it says.
    pub meaning: &'static str,
    /// The component that brings it about.
    pub producer: &'static str,
    /// The component that acts on it; "history" where it is only read back.
    pub consumer: &'static str,
    /// False for what is only ever on the bus.
    pub stored: bool,
}

/// Every variant of [`DomainEvent`], in its order.
pub fn catalogue() -> &'static [Catalogue] {
    const ROWS: &[Catalogue] = &[
        row("JobCreated", "A job was accepted.", "CreateJobUseCase", "history"),
        row(
            "JobWaiting",
            "It waits in CREATED for a point in time.",
            "CreateJobUseCase, ResultIntake",
            "JobCoordinator",
        ),
        row(
            "JobQueued",
            "It is runnable now.",
            "CreateJobUseCase, ResultIntake, JobCoordinator",
            "JobCoordinator",
        ),
        row("JobAssigned", "A worker has it; the attempt number rose.", "JobCoordinator", "JobDispatcher"),
        row("JobStarted", "Its process runs.", "ResultIntake", "history"),
        row(
            "JobCancelRequested",
            "Somebody wants the running attempt stopped.",
            "CancelJobUseCase",
            "JobDispatcher",
        ),
        row(
            "AttemptClosed",
            "An attempt is over and the job is not.",
            "ResultIntake, WorkerLifecycleManager",
            "history",
        ),
        row("LogGapRecorded", "Log chunks of an attempt will never come.", "ResultIntake", "history"),
        row("JobSucceeded", "It ended well.", "ResultIntake", "history"),
        row(
            "JobFailed",
            "It ended badly.",
            "ResultIntake, WorkerLifecycleManager, JobCoordinator",
            "history",
        ),
        row("JobCancelled", "It was cancelled.", "CancelJobUseCase, ResultIntake", "JobCoordinator"),
        row("JobTimedOut", "It ran, or waited, too long.", "ResultIntake, JobCoordinator", "JobCoordinator"),
        row(
            "WorkerProvisioningRequested",
            "A worker is ordered.",
            "JobCoordinator",
            "WorkerProvisioningService",
        ),
        row("WorkerProvisioned", "The provider created it.", "WorkerProvisioningService", "history"),
        row(
            "WorkerTokenIssued",
            "A bootstrap token was made for its agent.",
            "WorkerLifecycleManager",
            "WorkerGateway",
        ),
        row(
            "WorkerAdmitted",
            "Its agent showed the token: it is the worker, and no other.",
            "WorkerGateway",
            "WorkerGateway",
        ),
        row(
            "WorkerRegistered",
            "Its agent connected for the first time.",
            "WorkerLifecycleManager",
            "JobCoordinator",
        ),
        row("WorkerBusy", "It was given jobs.", "JobCoordinator", "history"),
        row("WorkerIdle", "It has no job left.", "JobCoordinator", "history"),
        row(
            "WorkerDraining",
            "It takes nothing more.",
            "WorkerLifecycleManager, JobCoordinator",
            "JobCoordinator",
        ),
        row("WorkerLost", "Its lease ran out unrenewed.", "WorkerLifecycleManager", "JobCoordinator"),
        row(
            "WorkerTerminated",
            "It is gone.",
            "WorkerLifecycleManager, WorkerProvisioningService",
            "JobCoordinator",
        ),
        row(
            "ProviderRegistered",
            "A provider was configured.",
            "ProviderManagementService",
            "JobCoordinator",
        ),
        row("ProviderUpdated", "Its configuration changed.", "ProviderManagementService", "JobCoordinator"),
        row(
            "ProviderHealthChanged",
            "It became healthy or unhealthy.",
            "WorkerProvisioningService",
            "JobCoordinator",
        ),
        row("SecretStored", "A secret has a value from now on; not which.", "SecretService", "history"),
        row("SecretDeleted", "A secret is not there any more.", "SecretService", "history"),
        row("TokenCreated", "A token for clients was made; not which.", "AccessService", "history"),
        row("TokenRevoked", "It lets nobody in any more.", "AccessService", "history"),
        row("AccessRefused", "Somebody was refused, so many times.", "AuditService", "history"),
        bus("WorkerReadyForJob", "A worker has room again.", "WorkerLifecycleManager", "JobCoordinator"),
        bus(
            "WorkerDispatchRequested",
            "Work waits for a worker whose stream another daemon holds.",
            "JobDispatcher",
            "DispatchRelay",
        ),
        bus("JobOutputStored", "More output of an attempt is stored.", "LogPersister", "DispatchRelay"),
        bus("WorkerHeartbeat", "A worker renewed its lease.", "WorkerGateway", "HealthMonitor"),
    ];
    ROWS
}

const fn row(
    name: &'static str,
    meaning: &'static str,
    producer: &'static str,
    consumer: &'static str,
) -> Catalogue {
    Catalogue { name, meaning, producer, consumer, stored: true }
}

const fn bus(
    name: &'static str,
    meaning: &'static str,
    producer: &'static str,
    consumer: &'static str,
) -> Catalogue {
    Catalogue { name, meaning, producer, consumer, stored: false }
}

impl DomainEvent {
    /// The variant's name.
    pub fn name(&self) -> &'static str {
        let index = match self {
            Self::JobCreated { .. } => 0,
            Self::JobWaiting { .. } => 1,
            Self::JobQueued { .. } => 2,
            Self::JobAssigned { .. } => 3,
            Self::JobStarted { .. } => 4,
            Self::JobCancelRequested => 5,
            Self::AttemptClosed { .. } => 6,
            Self::LogGapRecorded { .. } => 7,
            Self::JobSucceeded { .. } => 8,
            Self::JobFailed { .. } => 9,
            Self::JobCancelled { .. } => 10,
            Self::JobTimedOut { .. } => 11,
            Self::WorkerProvisioningRequested { .. } => 12,
            Self::WorkerProvisioned { .. } => 13,
            Self::WorkerTokenIssued { .. } => 14,
            Self::WorkerAdmitted { .. } => 15,
            Self::WorkerRegistered { .. } => 16,
            Self::WorkerBusy { .. } => 17,
            Self::WorkerIdle => 18,
            Self::WorkerDraining { .. } => 19,
            Self::WorkerLost { .. } => 20,
            Self::WorkerTerminated { .. } => 21,
            Self::ProviderRegistered { .. } => 22,
            Self::ProviderUpdated { .. } => 23,
            Self::ProviderHealthChanged { .. } => 24,
            Self::SecretStored { .. } => 25,
            Self::SecretDeleted { .. } => 26,
            Self::TokenCreated { .. } => 27,
            Self::TokenRevoked => 28,
            Self::AccessRefused { .. } => 29,
            Self::WorkerReadyForJob { .. } => 30,
            Self::WorkerDispatchRequested { .. } => 31,
            Self::JobOutputStored { .. } => 32,
            Self::WorkerHeartbeat { .. } => 33,
        };
        catalogue()[index].name
    }

    /// True for the four that end a job.
    pub fn ends_job(&self) -> bool {
        matches!(
            self,
            Self::JobSucceeded { .. }
                | Self::JobFailed { .. }
                | Self::JobCancelled { .. }
                | Self::JobTimedOut { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_in_the_order_of_the_names() {
        let event = DomainEvent::WorkerHeartbeat { renewals: 1 };
        assert_eq!(event.name(), "WorkerHeartbeat");
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["type"], "WorkerHeartbeat");
        let names: std::collections::BTreeSet<_> = catalogue().iter().map(|row| row.name).collect();
        assert_eq!(names.len(), catalogue().len());
    }
}
