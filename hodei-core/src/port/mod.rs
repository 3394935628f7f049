//! The ports: the traits that the application needs and that adapters implement.
//!
//! Each has a suite in `hodei_sdk::testing::conformance` that tests the guarantees of its methods.

mod artifacts;
mod bus;
mod clock;
mod epoch;
mod ids;
mod lease;
mod logs;
mod provider;
mod secret;
mod sink;
mod store;
mod store_error;

pub use artifacts::{ArtifactContent, ArtifactError, ArtifactStore};
pub use bus::{BusError, Delivery, EventBus, Subscription};
pub use clock::{BoxFuture, Clock, ClockExt, Elapsed, timer};
pub use epoch::Epoch;
pub use ids::IdGenerator;
pub use lease::{COORDINATOR_LEASE, Cluster, DaemonBeat, Lease, LeaseStore};
pub use logs::{LogBody, LogEnd, LogError, LogRecord, LogState, LogStore, LogStream};
pub use provider::{ProvidedWorker, ProviderError, WorkerProvider};
pub use secret::{SecretError, SecretInfo, SecretProvider};
pub use sink::{EventSink, SinkError, SinkPosition};
pub use store::{
    AccessRepository, AuditRepository, CommitError, FeedCursor, FeedPage, Fence, JobFilter, JobPage,
    JobQueue, JobRepository, KEY_OUTLIVES, ProviderConfigRepository, SecretRepository, Store, WorkerRegistry,
    Write,
};
pub use store_error::StoreError;
