//! The seam between a provider's agents and the platform.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_agent::{ArtifactChannel, ArtifactParts, ConnectError, Connection, Connector, TransferError};
use hodei_core::id::WorkerId;
use hodei_proto::v1;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Lets agents of this process in.
#[async_trait]
pub trait WorkerDoor: Debug + Send + Sync + 'static {
    /// Opens a stream for a worker. `incarnation` tells one agent from another that claims to be the same worker:
    /// the first that says hello is the worker, any other is refused.
    ///
    /// # Errors
    /// [`ConnectError::Refused`] when the worker is not wanted any more.
    async fn open(&self, worker: WorkerId, incarnation: Uuid) -> Result<Connection, ConnectError>;

    /// Reads an artifact that an attempt of a worker is to be given: see
    /// [`ArtifactChannel`](hodei_agent::ArtifactChannel::fetch).
    ///
    /// # Errors
    /// [`TransferError`], also in the channel.
    async fn fetch(
        &self,
        worker: WorkerId,
        request: v1::FetchRequest,
    ) -> Result<ArtifactParts, TransferError>;

    /// Stores an artifact of an attempt of a worker, whole or not at all: see
    /// [`ArtifactChannel`](hodei_agent::ArtifactChannel::store).
    ///
    /// # Errors
    /// [`TransferError`].
    async fn store(
        &self,
        worker: WorkerId,
        requests: mpsc::Receiver<v1::StoreRequest>,
    ) -> Result<(), TransferError>;

    /// A new bootstrap token for an agent of another process, which shows it to the platform's server. It is good
    /// for one agent, within [`Worker::TOKEN_LIFE`](hodei_core::worker::Worker::TOKEN_LIFE); only its hash is kept.
    ///
    /// # Errors
    /// [`ConnectError::Refused`] when the worker is not wanted any more.
    async fn issue_token(&self, worker: WorkerId) -> Result<String, ConnectError>;
}

/// Connects the agent of one worker through a door.
#[derive(Debug, Clone)]
pub struct DoorConnector {
    door: Arc<dyn WorkerDoor>,
    worker: WorkerId,
    incarnation: Uuid,
}

impl DoorConnector {
    /// A connector for one incarnation of a worker.
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
