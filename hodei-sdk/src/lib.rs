//! Hodei, the job platform that you embed: a queue, a scheduler, and workers that it creates itself.
//!
//! ```
//! use hodei_sdk::{Hodei, JobSpec, JobStatus};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let hodei = Hodei::local().await?;
//!     let run = hodei.submit(JobSpec::command(["echo", "hello"]).build()?).await?;
//!     let mut logs = run.logs();
//!     while let Some(item) = logs.next().await? {
//!         println!("{item:?}");
//!     }
//!     assert_eq!(run.wait().await?.status(), JobStatus::Succeeded);
//!     hodei.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! [`Hodei::local`] keeps everything in memory. [`Hodei::builder`] takes your own scheduler, store, bus, clock and
//! providers: the ports are in [`port`], and each has a suite under the feature `testing`.

mod app;
mod artifacts;
mod batch;
mod bus;
#[cfg(feature = "client")]
mod client;
mod clock;
mod config;
mod error;
#[cfg(feature = "grpc")]
pub mod grpc;
mod ids;
mod layer;
mod link;
mod platform;
mod provider;
mod seam;
mod secrets;
mod storage;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(any(feature = "grpc", feature = "client", feature = "nats", feature = "postgres"))]
#[cfg_attr(
    not(all(feature = "grpc", feature = "client")),
    allow(dead_code, reason = "one half is for the server, the other for the client")
)]
mod wire;

pub use artifacts::MemoryArtifacts;
#[cfg(feature = "artifacts")]
pub use artifacts::ObjectArtifacts;
pub use bus::memory::MemoryEventBus;
#[cfg(feature = "nats")]
pub use bus::nats::{NatsEventBus, NatsEventStream};
#[cfg(feature = "postgres")]
pub use bus::postgres::PostgresEventBus;
pub use bus::sink::MemoryEventSink;
#[cfg(feature = "client")]
pub use client::ConnectOptions;
pub use clock::{ManualClock, SystemClock};
pub use config::{LimitPolicy, OnShutdown, Settings, default_data_dir};
pub use error::{Error, InputRefusal, JobKey, OpenError, RefusalKind, Refused, SecretRefusal};
#[cfg(feature = "process")]
pub use hodei_agent::Compression;
pub use hodei_agent::{
    FileLogger, SignalListener, StartState, Workspaces, inherit_no_descriptors, return_large_memory,
    wait_for_children,
};
#[cfg(any(feature = "client", feature = "process"))]
pub use hodei_proto::tls::{TlsFiles, is_near};
pub use ids::{SeededIds, SystemIds};
pub use link::{DoorConnector, WorkerDoor};
pub use platform::{
    Artifacts, Events, Hodei, HodeiBuilder, JobHandle, Jobs, Queue, Secrets, Tokens, Workers,
};
pub use provider::ProviderContext;
pub use provider::local::{LocalOptions, LocalProvider};
#[cfg(feature = "process")]
pub use provider::process::{AgentCheck, ProcessOptions, ProcessProvider};
#[cfg(any(feature = "client", feature = "postgres"))]
pub use wire::document::{JobDocument, JobDocumentError};

pub use seam::{ArtifactReader, JobChanges, JobCompletions, JobFeed, JobLogs, JobWatch, LogItem};
pub use secrets::{DirectorySecrets, EncryptedSecrets, MemorySecrets, SecretKeys};
pub use storage::memory::{MemoryLogStore, MemoryStore};
#[cfg(feature = "postgres")]
pub use storage::postgres::{PostgresLogStore, PostgresStore};
#[cfg(feature = "sqlite")]
pub use storage::{DataDir, log_segments::SegmentLogStore, sqlite::SqliteStore};

pub use hodei_core::access::{Caller, Role};
pub use hodei_core::artifact::{Artifact, ArtifactInput, ArtifactOutput, WorkspacePath};
pub use hodei_core::job::{
    Backoff, CauseKind, Command, Constraint, FailureCause, Job, JobResources, JobSpec, JobSpecBuilder,
    JobStatus, Outcome, Priority, RetryPolicy, SpecError,
};
pub use hodei_core::scheduling::QueueStatus;
pub use hodei_core::secret::{SecretInjection, SecretName, SecretPolicy, SecretRef, SecretRule, SecretValue};
pub use hodei_core::{
    access, artifact, decision, event, id, job, port, provider as providers, scheduling, secret, time, worker,
};
