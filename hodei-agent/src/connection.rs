use std::fmt::Debug;

use async_trait::async_trait;
use hodei_proto::v1::{self, AgentMessage, ServerMessage};
use tokio::sync::mpsc;

/// Leads to the platform: over a channel in one process, over gRPC between two.
#[async_trait]
pub trait Connector: ArtifactChannel {
    /// A new stream. The identity of the worker is the connector's own matter, never in a message.
    ///
    /// # Errors
    /// [`ConnectError`] says whether to try again.
    async fn connect(&self) -> Result<Connection, ConnectError>;

    /// The platform says where else it can be reached; what it said before counts no more.
    fn learn(&self, servers: &[String]) {
        let _ = servers;
    }
}

/// The way of artifacts between an agent and the platform, beside the stream: they are large, and must not hold up the
/// rest.
#[async_trait]
pub trait ArtifactChannel: Debug + Send + Sync + 'static {
    /// Reads an artifact that an attempt is to be given: what it is, then its content. A channel that ends before the
    /// bytes that were told of broke.
    ///
    /// # Errors
    /// [`TransferError`], also in the channel.
    async fn fetch(&self, request: v1::FetchRequest) -> Result<ArtifactParts, TransferError>;

    /// Stores an artifact of an attempt, whole or not at all. Returns before the end of the channel when it is refused.
    ///
    /// # Errors
    /// [`TransferError`].
    async fn store(&self, requests: mpsc::Receiver<v1::StoreRequest>) -> Result<(), TransferError>;
}

/// An artifact on its way to an agent.
pub type ArtifactParts = mpsc::Receiver<Result<v1::ArtifactPart, TransferError>>;

/// Why an artifact was not transferred.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The same transfer may work later.
    #[error("{0}")]
    Unavailable(String),
    /// It is not there, or too long: the job's doing.
    #[error("{0}")]
    Refused(String),
    /// The platform has not what it should have, or no place for it: not the job's doing.
    #[error("{0}")]
    Broken(String),
    /// The attempt is over, or is none of this worker's.
    #[error("the attempt is over")]
    Fenced,
}

/// Without a connection nothing is transferred; it may work later, since who is refused is told by its stream.
impl From<ConnectError> for TransferError {
    fn from(error: ConnectError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A stream in both directions; over when either end is dropped.
#[derive(Debug)]
pub struct Connection {
    /// To the platform.
    pub outgoing: mpsc::Sender<AgentMessage>,
    /// From the platform.
    pub incoming: mpsc::Receiver<ServerMessage>,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The platform cannot be reached now.
    #[error("the platform cannot be reached: {0}")]
    Unavailable(String),
    /// The platform does not want this worker any more.
    #[error("the platform refuses this worker: {0}")]
    Refused(String),
}
