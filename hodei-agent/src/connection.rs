use std::fmt::Debug;

use async_trait::async_trait;
use hodei_proto::v1::{AgentMessage, ServerMessage};
use tokio::sync::mpsc;

/// Leads to the platform: over a channel in one process, over gRPC between two.
#[async_trait]
pub trait Connector: Debug + Send + Sync + 'static {
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
