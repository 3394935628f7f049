//! The ports through which the agent reaches the platform: one stream of messages, and transfers of artifacts.

use std::fmt::Debug;

use async_trait::async_trait;
use hodei_proto::v1::{self, AgentMessage, ServerMessage};
use tokio::sync::mpsc;

/// Connects to the platform: over a channel within one process, over gRPC between two.
#[async_trait]
pub trait Connector: ArtifactChannel {
    /// Opens a new stream. The connector proves the identity of the worker: no message carries it.
    ///
    /// # Errors
    /// [`ConnectError`] says whether a retry can succeed.
    async fn connect(&self) -> Result<Connection, ConnectError>;

    /// Takes the other addresses that the platform announces. They replace those of an earlier call.
    fn learn(&self, servers: &[String]) {
        let _ = servers;
    }
}

/// Transfers artifacts between an agent and the platform, apart from the stream: artifacts are large and must not delay
/// other messages.
#[async_trait]
pub trait ArtifactChannel: Debug + Send + Sync + 'static {
    /// Fetches an input of an attempt: first its description, then its content. If the channel ends before the
    /// announced number of bytes, the transfer broke.
    ///
    /// # Errors
    /// [`TransferError`], returned or sent through the channel.
    async fn fetch(&self, request: v1::FetchRequest) -> Result<ArtifactParts, TransferError>;

    /// Stores an artifact of an attempt, as a whole or not at all. Returns before the channel ends if the platform
    /// refuses it.
    ///
    /// # Errors
    /// [`TransferError`].
    async fn store(&self, requests: mpsc::Receiver<v1::StoreRequest>) -> Result<(), TransferError>;
}

/// The parts of an artifact that an agent fetches.
pub type ArtifactParts = mpsc::Receiver<Result<v1::ArtifactPart, TransferError>>;

/// Why an artifact was not transferred.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// A retry may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// The artifact is missing or too long. The job is at fault.
    #[error("{0}")]
    Refused(String),
    /// The platform lost the artifact or has no place for it. The job is not at fault.
    #[error("{0}")]
    Broken(String),
    /// The attempt is over or belongs to another worker.
    #[error("the attempt is over")]
    Fenced,
}

/// A retry may succeed even after a refusal: the stream tells a worker that it is refused, so a transfer does not have
/// to.
impl From<ConnectError> for TransferError {
    fn from(error: ConnectError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A stream in both directions. It ends when either side is dropped.
#[derive(Debug)]
pub struct Connection {
    /// To the platform.
    pub outgoing: mpsc::Sender<AgentMessage>,
    /// From the platform.
    pub incoming: mpsc::Receiver<ServerMessage>,
}

/// Why no stream could be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The platform cannot be reached now.
    #[error("the platform cannot be reached: {0}")]
    Unavailable(String),
    /// The platform no longer accepts this worker.
    #[error("the platform refuses this worker: {0}")]
    Refused(String),
}
