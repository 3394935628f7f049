//! The gRPC server of a platform. Each service has its own file.

mod accept;
mod access;
mod admission;
mod auth;
mod job_execution;
mod log_stream;
mod pages;
mod scheduler;
mod secret;
mod tls;
mod trace;
mod worker_agent;

use std::io;
use std::sync::Arc;

use hodei_core::access::{Caller, TokenRefusal, Who};
use hodei_core::worker::SecretHash;
use hodei_proto::WORKER_MESSAGE;
use hodei_proto::v1::access_service_server::AccessServiceServer;
use hodei_proto::v1::job_execution_service_server::JobExecutionServiceServer;
use hodei_proto::v1::log_stream_service_server::LogStreamServiceServer;
use hodei_proto::v1::scheduler_service_server::SchedulerServiceServer;
use hodei_proto::v1::secret_service_server::SecretServiceServer;
use hodei_proto::v1::worker_agent_service_server::WorkerAgentServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic::{Request, Status};

use crate::Hodei;
use crate::app::{NotKnown, hash};
use crate::clock::SystemClock;
use accept::Accepting;
use access::AccessApi;
use admission::{Admission, Room};
use auth::{Gate, Gated};
use job_execution::JobExecutionApi;
use log_stream::LogStreamApi;
use scheduler::SchedulerApi;
use secret::SecretApi;
use trace::Traced;
use worker_agent::WorkerAgentApi;

pub use tls::ServerTls;

/// The state that the services share.
#[derive(Debug, Clone)]
struct Serving {
    platform: Hodei,
    stop: CancellationToken,
}

impl Serving {
    /// Returns the platform for the caller of a request. A request that did not pass the gate has no caller and is
    /// refused.
    fn hodei<T>(&self, request: &Request<T>) -> Result<Hodei, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("the call was not authenticated"))?;
        Ok(self.platform.with_caller(caller))
    }

    /// Runs the task that sends the messages of a stream, until it ends, its reader goes away or loses its token, or
    /// the server stops.
    fn follow<T, F>(
        &self,
        name: &'static str,
        hodei: &Hodei,
        answers: mpsc::Sender<Result<T, Status>>,
        work: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F,
    ) where
        T: Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(tasks) = self.platform.tasks() else { return };
        let (server, platform, work) = (self.stop.clone(), tasks.stop().clone(), work(answers.clone()));
        let reader = hodei.clone();
        // Not aborted at shutdown: a reader that only saw the stream close would take that for the end of the output.
        tasks.spawn_to_end(name, async move {
            let stopped = async {
                tokio::select! { biased; () = server.cancelled() => {}, () = platform.cancelled() => {} }
            };
            tokio::select! {
                biased;
                () = stopped => {
                    // If the channel is full, the reader sees the end of the connection instead.
                    let _ = answers.try_send(Err(Status::unavailable("the daemon is shutting down: try again")));
                }
                () = answers.closed() => {}
                refusal = token_refused(&reader) => {
                    let _ = answers.try_send(Err(Status::unauthenticated(refusal.to_string())));
                }
                () = work => {}
            }
        });
    }
}

/// Interval between two checks of the token of a stream's reader.
const TOKEN_CHECK_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// Waits until the token of the caller is revoked or expires, and returns which. Never ends for other callers.
async fn token_refused(hodei: &Hodei) -> TokenRefusal {
    let clock = SystemClock::default();
    let who = hodei.caller().who;
    let Some(access) = hodei.access().filter(|_| matches!(who, Who::Token(_))) else {
        return std::future::pending().await;
    };
    loop {
        hodei_core::port::Clock::sleep(&clock, TOKEN_CHECK_INTERVAL).await;
        if let Err(NotKnown::Token(refusal)) = access.check(who).await {
            return refusal;
        }
    }
}

/// Serves a platform over gRPC, with health and reflection.
#[derive(Debug)]
pub struct GrpcServer {
    hodei: Hodei,
    token: Option<SecretHash>,
    tls: Option<ServerTls>,
}

/// The listener of a server.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix socket in the file system.
    Unix(UnixListener),
}

/// Maximum bytes of a message of a client: a batch of jobs, or one job with its standard input.
const MAX_CLIENT_MESSAGE_BYTES: usize = 4 << 20;

impl GrpcServer {
    /// Returns a server that accepts every client as the handle's own caller.
    pub fn new(hodei: &Hodei) -> Self {
        Self { hodei: hodei.clone(), token: None, tls: None }
    }

    /// Requires a token of clients: this one, for the handle's own caller, or one that
    /// [`Tokens::create`](crate::Tokens::create) made. Agents have credentials of their own.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(hash(token));
        self
    }

    /// Requires TLS on a TCP port. A Unix socket is served without it.
    #[must_use]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Serves until `stop` is cancelled and every call has ended.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, listener: Listener, stop: CancellationToken) -> io::Result<()> {
        let mut routes = RoutesBuilder::default();
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
        routes.add_service(health);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(hodei_proto::FILE_DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        routes.add_service(reflection().build_v1().map_err(io::Error::other)?);
        // Older tools, such as grpcurl before 1.9, only support this version.
        routes.add_service(reflection().build_v1alpha().map_err(io::Error::other)?);
        let serving = Serving { platform: self.hodei.clone(), stop: stop.clone() };
        let gate = Gate { hodei: self.hodei.clone(), own: self.token };
        let jobs = JobExecutionServiceServer::new(JobExecutionApi(serving.clone()))
            .max_decoding_message_size(MAX_CLIENT_MESSAGE_BYTES)
            .max_encoding_message_size(usize::MAX);
        routes.add_service(Gated::new(jobs, &gate));
        let scheduler = SchedulerServiceServer::new(SchedulerApi(serving.clone()));
        routes.add_service(Gated::new(scheduler, &gate));
        let access = AccessServiceServer::new(AccessApi(serving.clone()));
        routes.add_service(Gated::new(access, &gate));
        let secrets = SecretServiceServer::new(SecretApi(serving.clone()));
        routes.add_service(Gated::new(secrets, &gate));
        let logs = LogStreamServiceServer::new(LogStreamApi(serving)).max_encoding_message_size(usize::MAX);
        routes.add_service(Gated::new(logs, &gate));
        if let Some(gateway) = self.hodei.gateway() {
            let service = WorkerAgentServiceServer::new(WorkerAgentApi { gateway });
            routes.add_service(
                service.max_decoding_message_size(WORKER_MESSAGE).max_encoding_message_size(WORKER_MESSAGE),
            );
        }
        let router = Server::builder()
            .http2_keepalive_interval(Some(std::time::Duration::from_secs(20)))
            .layer(tower::layer::layer_fn(Traced::new))
            .add_routes(routes.routes());
        let stopped = stop.cancelled_owned();
        let admission = Admission::new(Room::of_this_process(), Arc::new(SystemClock::default()));
        let served = match (listener, self.tls) {
            (Listener::Tcp(listener), Some(tls)) => {
                let no_tasks = || io::Error::other("TLS cannot be served for the client of a daemon");
                let tasks = self.hodei.tasks().ok_or_else(no_tasks)?;
                let incoming = ReceiverStream::new(tls.accept(Accepting::new(listener, admission), tasks));
                router.serve_with_incoming_shutdown(incoming, stopped).await
            }
            (Listener::Tcp(listener), None) => {
                router
                    .serve_with_incoming_shutdown(Accepting::new(listener, admission).stream(), stopped)
                    .await
            }
            (Listener::Unix(listener), _) => {
                router
                    .serve_with_incoming_shutdown(Accepting::new(listener, admission).stream(), stopped)
                    .await
            }
        };
        served.map_err(io::Error::other)
    }
}
