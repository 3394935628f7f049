//! The entry point of agents: opens their streams, and passes artifact transfers and token requests on.

use crate::app::workers::agent_session::AgentSession;
use crate::app::workers::gateway::WorkerGateway;
use crate::app::workers::stream_registry::MAX_OUTGOING_MESSAGES;
use crate::link::WorkerDoor;
use async_trait::async_trait;
use hodei_agent::{ArtifactParts, ConnectError, Connection, TransferError};
use hodei_core::id::WorkerId;
use hodei_proto::v1;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Messages of one agent that may queue before its session reads them.
const MAX_INCOMING_MESSAGES: usize = 32;

#[async_trait]
impl WorkerDoor for WorkerGateway {
    async fn open(&self, worker: WorkerId, incarnation: Uuid) -> Result<Connection, ConnectError> {
        // The channel stays within this process, so it is private.
        self.open_over(worker, incarnation, true).await
    }

    async fn fetch(
        &self,
        worker: WorkerId,
        request: v1::FetchRequest,
    ) -> Result<ArtifactParts, TransferError> {
        self.artifacts.fetch(worker, request, &self.ports.tasks).await
    }

    async fn store(
        &self,
        worker: WorkerId,
        requests: mpsc::Receiver<v1::StoreRequest>,
    ) -> Result<(), TransferError> {
        self.artifacts.store(worker, requests, &self.ports.tasks).await
    }

    async fn issue_token(&self, worker: WorkerId) -> Result<String, ConnectError> {
        #[cfg(feature = "grpc")]
        return self.new_token(worker).await;
        #[cfg(not(feature = "grpc"))]
        Err(ConnectError::Refused(format!(
            "no server admits the agent of worker {worker}: build with the feature `grpc`"
        )))
    }
}

impl WorkerGateway {
    /// Opens a stream for a worker's agent. `is_private` says that no third party can read the stream.
    pub(crate) async fn open_over(
        &self,
        worker: WorkerId,
        incarnation: Uuid,
        is_private: bool,
    ) -> Result<Connection, ConnectError> {
        let unavailable = |error: &dyn std::fmt::Display| ConnectError::Unavailable(error.to_string());
        if self.ports.tasks.stop().is_cancelled() {
            return Err(unavailable(&"the platform is shutting down"));
        }
        let found =
            self.ports.store.workers(&[worker]).await.map_err(|error| unavailable(&error))?.pop().flatten();
        let found = found.filter(|worker| !worker.is_terminated());
        let Some(found) = found else {
            return Err(ConnectError::Refused("the worker is terminated or unknown; stop this agent".into()));
        };
        if found.incarnation().is_some_and(|first| first != incarnation) {
            return Err(ConnectError::Refused(
                "another agent already serves this worker; stop this one".into(),
            ));
        }
        let (to_platform, incoming) = mpsc::channel(MAX_INCOMING_MESSAGES);
        let (outgoing, from_platform) = mpsc::channel(MAX_OUTGOING_MESSAGES);
        let session = AgentSession::new(self.clone(), found, incarnation, incoming, is_private);
        self.ports.tasks.spawn("worker session", session.run(outgoing));
        Ok(Connection { outgoing: to_platform, incoming: from_platform })
    }
}
