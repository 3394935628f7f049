//! The application: use cases over the domain and its ports, with one folder per subject. It depends on the core and
//! the ports only; the adapters are in the folders beside this one.

mod access;
mod artifacts;
mod backoff;
mod cluster;
mod commit;
mod dispatch;
mod follow;
mod hints;
mod jobs;
mod logs;
mod portions;
mod ports;
mod retention;
mod scheduling;
mod secrets;
mod shutdown;
mod workers;

#[cfg(feature = "grpc")]
pub(crate) use access::authentication::NotKnown;
pub(crate) use access::authorizer::Authorizer;
pub(crate) use access::tokens::AccessService;
#[cfg(feature = "grpc")]
pub(crate) use access::tokens::hash;
pub(crate) use artifacts::service::ArtifactService;
pub(crate) use cluster::event_forwarding::EventForwarder;
pub(crate) use cluster::membership::Membership;
pub(crate) use commit::{Committer, CommitterParts, Failures};
pub(crate) use dispatch::dispatcher::JobDispatcher;
pub(crate) use dispatch::preparation::{AssignmentPreparer, MAX_PREPARATIONS};
pub(crate) use dispatch::remote::RemoteDispatch;
pub(crate) use follow::event_queries::EventQueries;
pub(crate) use follow::job_notifier::JobNotifier;
#[cfg(feature = "grpc")]
pub(crate) use follow::job_states::JobStates;
pub(crate) use follow::log_notifier::LogNotifier;
pub(crate) use jobs::cancel_job::CancelJobUseCase;
pub(crate) use jobs::controller::JobController;
pub(crate) use jobs::create_job::CreateJobUseCase;
pub(crate) use jobs::queries::JobQueries;
pub(crate) use logs::persister::LogPersister;
pub(crate) use logs::tail::TailBudget;
pub(crate) use ports::Ports;
pub(crate) use retention::RetentionService;
pub(crate) use scheduling::coordinator::CoordinatorParts;
pub(crate) use scheduling::leadership::Leadership;
pub(crate) use scheduling::planning::PlanSource;
pub(crate) use scheduling::queue_status::QueueQueries;
pub(crate) use secrets::SecretService;
pub(crate) use shutdown::Shutdown;
pub(crate) use workers::controller::WorkerController;
pub(crate) use workers::gateway::WorkerGateway;
pub(crate) use workers::health::HealthMonitor;
pub(crate) use workers::lifecycle::{Providers, WorkerLifecycleManager};
pub(crate) use workers::providers::ProviderManagementService;
pub(crate) use workers::provisioning::{WorkerProvisioningService, lease_of};
#[cfg(feature = "grpc")]
pub(crate) use workers::registration::Rejected;
pub(crate) use workers::results::{IntakeParts, ResultIntake};
pub(crate) use workers::stream_registry::StreamRegistry;
