//! The gRPC service of agents: registration, their stream of messages, and the transfer of artifacts.

use hodei_agent::{ConnectError, Connection, TransferError};
use hodei_core::id::WorkerId;
use hodei_core::worker::NotAdmitted;
use hodei_proto::packing::unpack;
use hodei_proto::v1::server_message::Body;
use hodei_proto::v1::worker_agent_service_server::WorkerAgentService;
use hodei_proto::{PROTOCOL_VERSION, v1};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use uuid::Uuid;

use super::admission::{Holder, Peer};
use super::auth::{admit, bearer, is_private};
use crate::app::{Rejected, WorkerGateway};
use crate::link::WorkerDoor;

/// Serves agents of other processes.
#[derive(Debug)]
pub(super) struct WorkerAgentApi {
    pub(super) gateway: WorkerGateway,
}

type ServerMessages =
    std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::ServerMessage, Status>> + Send + 'static>>;

type FetchResponses =
    std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::FetchResponse, Status>> + Send + 'static>>;

/// Maximum number of buffered messages of an artifact that is stored.
const MAX_BUFFERED_PIECES: usize = 4;

#[tonic::async_trait]
impl WorkerAgentService for WorkerAgentApi {
    type WorkerStreamStream = ServerMessages;

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let peer = Peer::of(request.extensions()).cloned();
        let v1::RegisterRequest { token, nonce, version } = request.into_inner();
        if version > PROTOCOL_VERSION || version + 1 < PROTOCOL_VERSION {
            let why = format!(
                "version: the agent speaks protocol {version}, this server {PROTOCOL_VERSION}: update the older one"
            );
            return Err(Status::failed_precondition(why));
        }
        let nonce =
            Uuid::from_slice(&nonce).map_err(|_| Status::invalid_argument("nonce: it must have 16 bytes"))?;
        let (worker, credential) = self.gateway.register(&token, nonce).await.map_err(status)?;
        peer.map_or(Ok(()), |peer| peer.admit(Holder::Agent))?;
        Ok(Response::new(v1::RegisterResponse { worker_id: worker.to_string(), credential }))
    }

    async fn worker_stream(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<ServerMessages>, Status> {
        let credential = bearer(request.metadata().as_ref())?.to_owned();
        let opened = self.gateway.open_with(&credential, is_private(&request)).await.map_err(status)?;
        let Connection { outgoing, incoming } = opened.map_err(|error| match error {
            ConnectError::Refused(_) => Status::permission_denied(error.to_string()),
            _ => Status::unavailable(error.to_string()),
        })?;
        admit(request.extensions(), Holder::Agent)?;
        let mut messages = request.into_inner();
        let gateway = self.gateway.clone();
        self.gateway.ports.tasks.spawn("worker stream", async move {
            loop {
                tokio::select! {
                    biased;
                    // The session has ended: its messages have no receiver.
                    () = outgoing.closed() => return,
                    message = messages.message() => match message {
                        Ok(Some(message)) => match unpack(message) {
                            Ok(message) => if outgoing.send(message).await.is_err() { return },
                            Err(error) => return tracing::warn!(%error, "an agent sent output that cannot be unpacked"),
                        },
                        Ok(None) => return,
                        Err(error) => {
                            if error.code() == Code::OutOfRange {
                                gateway.sent_too_much(&credential);
                            }
                            return tracing::debug!(%error, "the stream of an agent broke");
                        }
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(incoming).map(|message| Ok(takes_packed(message))))))
    }

    type FetchStream = FetchResponses;

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let (worker, _) = self.authenticate(&request).await?;
        let parts = self.gateway.fetch(worker, request.into_inner()).await.map_err(transfer_status)?;
        let answer = |part: Result<v1::ArtifactPart, TransferError>| {
            part.map(|part| v1::FetchResponse { part: Some(part) }).map_err(transfer_status)
        };
        Ok(Response::new(Box::pin(ReceiverStream::new(parts).map(answer))))
    }

    async fn store(
        &self,
        request: Request<Streaming<v1::StoreRequest>>,
    ) -> Result<Response<v1::StoreResponse>, Status> {
        let (worker, _) = self.authenticate(&request).await?;
        let (requests, incoming) = mpsc::channel(MAX_BUFFERED_PIECES);
        let mut messages = request.into_inner();
        // Ends with the call, or when the gateway takes no more messages.
        let pass_on = async {
            let end = loop {
                match messages.message().await {
                    Ok(Some(message)) => {
                        if requests.send(message).await.is_err() {
                            break Ok(());
                        }
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            drop(requests);
            if let Err(error) = end {
                tracing::debug!(%error, "an artifact of an agent broke off");
            }
        };
        let mut storing = std::pin::pin!(self.gateway.store(worker, incoming));
        let stored =
            tokio::select! { biased; stored = &mut storing => stored, () = pass_on => storing.await };
        stored.map_err(transfer_status)?;
        Ok(Response::new(v1::StoreResponse {}))
    }

    async fn unregister(
        &self,
        request: Request<v1::UnregisterRequest>,
    ) -> Result<Response<v1::UnregisterResponse>, Status> {
        let credential = bearer(request.metadata().as_ref())?;
        self.gateway.unregister(credential).await.map_err(status)?;
        Ok(Response::new(v1::UnregisterResponse {}))
    }
}

impl WorkerAgentApi {
    async fn authenticate<T>(&self, request: &Request<T>) -> Result<(WorkerId, Uuid), Status> {
        let known = self.gateway.authenticate(bearer(request.metadata().as_ref())?).await.map_err(status)?;
        admit(request.extensions(), Holder::Agent)?;
        Ok(known)
    }
}

/// Announces in a welcome that this server accepts packed output.
fn takes_packed(mut message: v1::ServerMessage) -> v1::ServerMessage {
    if let Some(Body::Welcome(welcome)) = &mut message.body {
        welcome.takes_packed_logs = true;
    }
    message
}

fn transfer_status(error: TransferError) -> Status {
    let why = error.to_string();
    match error {
        TransferError::Refused(_) => Status::failed_precondition(why),
        TransferError::Fenced => Status::aborted(why),
        TransferError::Broken(_) => Status::data_loss(why),
        _ => Status::unavailable(why),
    }
}

fn status(rejected: Rejected) -> Status {
    let why = rejected.to_string();
    match rejected {
        Rejected::Stranger | Rejected::Agent(NotAdmitted::Unknown | NotAdmitted::Expired) => {
            Status::unauthenticated(why)
        }
        Rejected::Agent(NotAdmitted::Used | NotAdmitted::Gone) => Status::permission_denied(why),
        Rejected::Store(_) | Rejected::Stopped => Status::unavailable(why),
    }
}
