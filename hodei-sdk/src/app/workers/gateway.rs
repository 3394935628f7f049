//! What the entry point of agents works with. Opening a stream is in `door`, admission in `registration`.

#[cfg(feature = "grpc")]
use std::collections::BTreeMap;
use std::sync::Arc;
#[cfg(feature = "grpc")]
use std::sync::Mutex;

#[cfg(feature = "grpc")]
use hodei_core::time::Moment;
#[cfg(feature = "grpc")]
use hodei_core::worker::SecretHash;

use crate::app::artifacts::service::ArtifactService;
use crate::app::cluster::membership::Membership;
use crate::app::dispatch::dispatcher::JobDispatcher;
use crate::app::logs::persister::LogPersister;
use crate::app::ports::Ports;
use crate::app::workers::lifecycle::WorkerLifecycleManager;
use crate::app::workers::results::ResultIntake;
use crate::app::workers::stream_registry::StreamRegistry;

/// Accepts agents. Each stream is served by its own session task.
#[derive(Debug, Clone)]
pub(crate) struct WorkerGateway {
    pub(crate) ports: Arc<Ports>,
    pub(crate) streams: StreamRegistry,
    pub(crate) membership: Membership,
    pub(crate) dispatcher: JobDispatcher,
    pub(crate) results: ResultIntake,
    pub(crate) persister: LogPersister,
    pub(crate) lifecycle: WorkerLifecycleManager,
    pub(crate) artifacts: ArtifactService,
    #[cfg(feature = "grpc")]
    pub(crate) issued: IssuedTokens,
}

/// Bootstrap tokens that this process issued and that may still be valid, with the time of issue on both clocks.
#[cfg(feature = "grpc")]
pub(crate) type IssuedTokens = Arc<Mutex<BTreeMap<SecretHash, Moment>>>;
