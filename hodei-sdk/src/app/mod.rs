//! The application: one use case a file, over the domain and its ports.

mod access;
mod artifacts;
mod audit;
#[cfg(feature = "grpc")]
mod authentication;
mod batch;
mod cancel_job;
mod chase;
mod commit;
mod controller;
mod coordinator;
mod create_job;
mod delivery;
mod dispatcher;
mod ends;
mod event_relay;
mod feed;
mod gateway;
mod health;
mod job_feed;
mod job_news;
mod leader;
mod lifecycle;
mod log_news;
mod log_persister;
mod log_reader;
mod log_tail;
mod membership;
mod planning;
mod portions;
mod providers;
mod provisioning;
mod queries;
#[cfg(feature = "grpc")]
mod registration;
mod relay;
mod results;
mod retention;
mod scheduling_service;
mod secrets;
mod session;
mod sessions;
mod shutdown;
mod states;
mod watch;

pub(crate) use access::AccessService;
#[cfg(feature = "grpc")]
pub(crate) use access::hash;
pub use artifacts::ArtifactReader;
pub(crate) use artifacts::ArtifactService;
pub(crate) use audit::{AuditParts, AuditService};
#[cfg(feature = "grpc")]
pub(crate) use authentication::NotKnown;
pub(crate) use batch::fitting;
pub(crate) use cancel_job::CancelJobUseCase;
pub(crate) use commit::{Committer, CommitterParts, Failures};
pub(crate) use controller::JobController;
pub(crate) use coordinator::{CoordinatorParts, JobCoordinator};
pub(crate) use create_job::{Accepted, CreateJobUseCase};
pub(crate) use delivery::{SecretDelivery, WAITING as DELIVERIES};
pub(crate) use dispatcher::JobDispatcher;
#[cfg(feature = "client")]
pub(crate) use ends::EndSource;
pub use ends::JobEnds;
pub(crate) use event_relay::EventRelay;
pub(crate) use gateway::WorkerGateway;
pub(crate) use health::HealthMonitor;
#[cfg(feature = "client")]
pub(crate) use job_feed::JobFeedSource;
pub use job_feed::{JobChanges, JobFeed};
pub(crate) use job_news::JobNews;
pub(crate) use leader::Leader;
pub(crate) use lifecycle::{Providers, WorkerLifecycleManager};
pub(crate) use log_news::LogNews;
pub(crate) use log_persister::LogPersister;
pub use log_reader::{JobLogs, LogItem};
#[cfg(feature = "client")]
pub(crate) use log_reader::{LogPlace, OutputSource};
pub(crate) use log_tail::TailBudget;
pub(crate) use membership::Membership;
pub(crate) use planning::PlanSource;
pub(crate) use providers::ProviderManagementService;
pub(crate) use provisioning::{WorkerProvisioningService, lease_of};
pub(crate) use queries::JobQueries;
pub use queries::JobWatch;
#[cfg(feature = "client")]
pub(crate) use queries::StateSource;
#[cfg(feature = "grpc")]
pub(crate) use registration::Rejected;
pub(crate) use relay::DispatchRelay;
pub(crate) use results::{IntakeParts, ResultIntake};
pub(crate) use retention::RetentionService;
pub(crate) use scheduling_service::SchedulingService;
pub(crate) use secrets::SecretService;
pub(crate) use sessions::Sessions;
pub(crate) use shutdown::Shutdown;
#[cfg(feature = "grpc")]
pub(crate) use states::JobStates;
use watch::Watches;
