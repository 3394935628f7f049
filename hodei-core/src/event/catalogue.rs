//! The catalogue of events: the meaning, producer and consumer of each. docs/events.md is generated from it.

use super::DomainEvent;

/// One row of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Catalogue {
    /// Name of the variant.
    pub name: &'static str,
    /// Meaning of the event, as a sentence.
    pub meaning: &'static str,
    /// The component that produces it.
    pub producer: &'static str,
    /// The component that acts on it; "history" for an event that is only read back.
    pub consumer: &'static str,
    /// False for an event that is only on the bus.
    pub stored: bool,
}

const ROWS: &[Catalogue] = &[
    row("JobCreated", "A job was accepted.", "CreateJobUseCase", "history"),
    row(
        "JobWaiting",
        "A job waits in CREATED for a point in time.",
        "CreateJobUseCase, ResultIntake",
        "JobCoordinator",
    ),
    row(
        "JobQueued",
        "A job is runnable now.",
        "CreateJobUseCase, ResultIntake, JobCoordinator",
        "JobCoordinator",
    ),
    row(
        "JobAssigned",
        "A job was assigned to a worker; its attempt number rose.",
        "JobCoordinator",
        "JobDispatcher",
    ),
    row("JobStarted", "The process of a job runs.", "ResultIntake", "history"),
    row(
        "JobCancelRequested",
        "A caller asked to stop the running attempt.",
        "CancelJobUseCase",
        "JobDispatcher",
    ),
    row(
        "AttemptClosed",
        "An attempt ended and its job did not.",
        "ResultIntake, WorkerLifecycleManager",
        "history",
    ),
    row("LogGapRecorded", "Log chunks of an attempt will never arrive.", "ResultIntake", "history"),
    row("JobSucceeded", "A job succeeded.", "ResultIntake", "history"),
    row("JobFailed", "A job failed.", "ResultIntake, WorkerLifecycleManager, JobCoordinator", "history"),
    row("JobCancelled", "A job was cancelled.", "CancelJobUseCase, ResultIntake", "JobCoordinator"),
    row("JobTimedOut", "A job ran or waited too long.", "ResultIntake, JobCoordinator", "JobCoordinator"),
    row(
        "WorkerProvisioningRequested",
        "A worker was ordered.",
        "JobCoordinator",
        "WorkerProvisioningService",
    ),
    row("WorkerProvisioned", "The provider created a worker.", "WorkerProvisioningService", "history"),
    row(
        "WorkerTokenIssued",
        "A bootstrap token was made for the agent of a worker.",
        "WorkerLifecycleManager",
        "WorkerGateway",
    ),
    row(
        "WorkerAdmitted",
        "An agent showed the bootstrap token: no other agent can be this worker.",
        "WorkerGateway",
        "WorkerGateway",
    ),
    row(
        "WorkerRegistered",
        "The agent of a worker connected for the first time.",
        "WorkerLifecycleManager",
        "JobCoordinator",
    ),
    row("WorkerBusy", "A worker was given jobs.", "JobCoordinator", "history"),
    row("WorkerIdle", "A worker has no job any more.", "JobCoordinator", "history"),
    row(
        "WorkerDraining",
        "A worker takes no more jobs.",
        "WorkerLifecycleManager, JobCoordinator",
        "JobCoordinator",
    ),
    row("WorkerLost", "The lease of a worker expired.", "WorkerLifecycleManager", "JobCoordinator"),
    row(
        "WorkerTerminated",
        "A worker is gone.",
        "WorkerLifecycleManager, WorkerProvisioningService",
        "JobCoordinator",
    ),
    row("ProviderRegistered", "A provider was configured.", "ProviderManagementService", "JobCoordinator"),
    row(
        "ProviderUpdated",
        "The configuration of a provider changed.",
        "ProviderManagementService",
        "JobCoordinator",
    ),
    row(
        "ProviderHealthChanged",
        "A provider became healthy or unhealthy.",
        "WorkerProvisioningService",
        "JobCoordinator",
    ),
    row("SecretStored", "A secret got a value; the event does not hold it.", "SecretService", "history"),
    row("SecretDeleted", "A secret was deleted.", "SecretService", "history"),
    row(
        "TokenCreated",
        "A token for clients was made; the event does not hold its text.",
        "AccessService",
        "history",
    ),
    row("TokenRevoked", "A token was revoked.", "AccessService", "history"),
    row("AccessRefused", "A caller or agent was refused, this many times.", "Authorizer", "history"),
    bus("WorkerReadyForJob", "A worker has room again.", "WorkerLifecycleManager", "JobCoordinator"),
    bus(
        "WorkerDispatchRequested",
        "Work waits for a worker whose stream another daemon holds.",
        "JobDispatcher",
        "RemoteDispatch",
    ),
    bus("JobOutputStored", "More output of an attempt is stored.", "LogPersister", "RemoteDispatch"),
    bus("WorkerHeartbeat", "A worker renewed its lease.", "WorkerGateway", "HealthMonitor"),
];

/// Returns a row for each variant of [`DomainEvent`], in its order.
pub fn catalogue() -> &'static [Catalogue] {
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
    /// Returns the name of the variant.
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

    /// Whether it is one of the four events that end a job.
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
    fn the_catalogue_has_each_event_at_the_index_of_its_name() {
        let event = DomainEvent::WorkerHeartbeat { renewals: 1 };
        assert_eq!(event.name(), "WorkerHeartbeat");
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["type"], "WorkerHeartbeat");
        let names: std::collections::BTreeSet<_> = catalogue().iter().map(|row| row.name).collect();
        assert_eq!(names.len(), catalogue().len());
    }
}
