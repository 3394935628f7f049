//! Link between a provider's agents and the platform.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_agent::{ArtifactChannel, ArtifactParts, ConnectError, Connection, Connector, TransferError};
use hodei_core::id::WorkerId;
use hodei_proto::v1;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Connects agents that run in this process to the platform.
#[async_trait]
pub trait WorkerDoor: Debug + Send + Sync + 'static {
    /// Opens a stream for a worker. `incarnation` distinguishes agents that claim to be the same worker: the first to
    /// say hello is accepted, any other is refused.
    ///
    /// # Errors
    /// [`ConnectError::Refused`] when the platform no longer wants the worker.
    async fn open(&self, worker: WorkerId, incarnation: Uuid) -> Result<Connection, ConnectError>;

    /// Reads an input artifact for an attempt of a worker: see
    /// [`ArtifactChannel`](hodei_agent::ArtifactChannel::fetch).
    ///
    /// # Errors
    /// [`TransferError`], also in the channel.
    async fn fetch(
        &self,
        worker: WorkerId,
        request: v1::FetchRequest,
    ) -> Result<ArtifactParts, TransferError>;

    /// Stores an output artifact of an attempt of a worker, entirely or not at all: see
    /// [`ArtifactChannel`](hodei_agent::ArtifactChannel::store).
    ///
    /// # Errors
    /// [`TransferError`].
    async fn store(
        &self,
        worker: WorkerId,
        requests: mpsc::Receiver<v1::StoreRequest>,
    ) -> Result<(), TransferError>;

    /// Issues a bootstrap token that an agent in another process presents to the platform's server. It is valid for one
    /// agent, for [`Worker::TOKEN_LIFE`](hodei_core::worker::Worker::TOKEN_LIFE); only its hash is kept.
    ///
    /// # Errors
    /// [`ConnectError::Refused`] when the platform no longer wants the worker.
    async fn issue_token(&self, worker: WorkerId) -> Result<String, ConnectError>;
}

/// Connects the agent of one worker through a [`WorkerDoor`].
#[derive(Debug, Clone)]
pub struct DoorConnector {
    door: Arc<dyn WorkerDoor>,
    worker: WorkerId,
    incarnation: Uuid,
}

impl DoorConnector {
    /// Creates a connector for one incarnation of a worker.
    pub fn new(door: Arc<dyn WorkerDoor>, worker: WorkerId, incarnation: Uuid) -> Self {
        Self { door, worker, incarnation }
    }
}

#[async_trait]
impl ArtifactChannel for DoorConnector {
    async fn fetch(&self, request: v1::FetchRequest) -> Result<ArtifactParts, TransferError> {
        self.door.fetch(self.worker, request).await
    }

    async fn store(&self, requests: mpsc::Receiver<v1::StoreRequest>) -> Result<(), TransferError> {
        self.door.store(self.worker, requests).await
    }
}

#[async_trait]
impl Connector for DoorConnector {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        self.door.open(self.worker, self.incarnation).await
    }
}
