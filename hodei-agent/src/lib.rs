//! The agent of Hodei: it runs in a worker, executes the jobs that the platform assigns and reports their results.
//!
//! [`Agent`] keeps one session with the platform over a [`Connector`] and continues while the platform is away. An
//! [`Executor`] runs a job; [`JobExecutor`] runs it as processes. The agent does not interfere with a program that
//! embeds it: it installs no global signal handler, is no subreaper and reaps no foreign children, unless the program
//! opens an [`Orphanage`].

mod clock;
mod compression;
mod connection;
mod descriptors;
mod executor;
#[cfg(feature = "grpc")]
mod grpc;
mod journal;
mod orphans;
mod probe;
#[cfg(feature = "grpc")]
mod resolver;
mod session;
mod signals;

pub use clock::SystemClock;
pub use compression::Compression;
pub use connection::{ArtifactChannel, ArtifactParts, ConnectError, Connection, Connector, TransferError};
pub use descriptors::{DescriptorLimit, raise_descriptor_limit};
pub use executor::{
    Children, Chunk, Executor, FileLogger, Job, JobExecutor, Leftovers, LivingAgent, Marks, Output,
    StartState, Stop, StopReason, StopSignal, Workspaces, clear_leftovers_of, clear_leftovers_of_owner,
    exec_in, holds_limits, inherit_no_descriptors, kill_marked, living_agents, marked_processes,
    marked_workers, return_large_memory, wait_for_children, watch_exit,
};
#[cfg(feature = "grpc")]
pub use grpc::GrpcConnector;
#[cfg(feature = "grpc")]
pub use hodei_proto::tls::TlsFiles;
pub use journal::{begun_by, begun_by_workers_of};
pub use orphans::Orphanage;
pub use session::{Agent, AgentConfig, AgentStop, Left, SpoolConfig};
pub use signals::SignalListener;
