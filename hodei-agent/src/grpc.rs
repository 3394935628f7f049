//! The gRPC connector to a platform in another process.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use hodei_proto::packing::LogPacker;
use hodei_proto::tls::{TlsFiles, is_near};
use hodei_proto::v1::server_message::Body;
use hodei_proto::v1::worker_agent_service_client::WorkerAgentServiceClient;
use hodei_proto::{PROTOCOL_VERSION, WORKER_MESSAGE, v1};
use rustix::fs::{Mode, OFlags};
use tokio::sync::{OnceCell, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use uuid::Uuid;

use crate::compression::Compression;
use crate::connection::{ArtifactChannel, ArtifactParts, ConnectError, Connection, Connector, TransferError};
use crate::resolver;

/// Connects over gRPC to the first server of a list that answers. Authenticates with a bootstrap token at first, then
/// with the credential that the token was exchanged for.
#[derive(Debug)]
pub struct GrpcConnector {
    servers: Vec<String>,
    /// The file with the current addresses of the platform.
    server_file: Option<ServerFile>,
    token: String,
    nonce: Uuid,
    tls: TlsFiles,
    compression: Compression,
    trouble_file: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    credential: Option<MetadataValue<Ascii>>,
    /// The server of the current or the latest stream.
    server: Option<String>,
    /// Servers that the platform announced, beyond the configured ones.
    learned: Vec<String>,
    /// Index of the server to try next.
    next: usize,
    /// Why the last connection failed, as written to the trouble file.
    trouble: Option<String>,
    /// The connection of the transfers in progress.
    beside: Weak<Beside>,
}

type BesideClient = WorkerAgentServiceClient<Channel>;

/// A connection that all transfers of artifacts share. It closes after the last of them.
#[derive(Debug)]
struct Beside {
    server: String,
    client: OnceCell<BesideClient>,
}

/// Timeout of a connection, and of a unary call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between HTTP/2 pings, and the timeout of their answers: a server that misses one is gone.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of servers taken from the server file, and of those that the platform announces.
const MAX_EXTRA_SERVERS: usize = 64;
/// Maximum number of messages that may wait in each direction.
const MAX_QUEUED_MESSAGES: usize = 256;

/// The file in which the platform writes its addresses.
#[derive(Debug)]
struct ServerFile {
    path: PathBuf,
    /// The open directory of the file, which keeps the file reachable after a rename; `None` if it cannot be opened.
    dir: Option<OwnedFd>,
}

impl ServerFile {
    fn open(path: PathBuf) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = path.parent().and_then(|dir| rustix::fs::open(dir, flags, Mode::empty()).ok());
        Self { path, dir }
    }

    /// Returns the text of the file, empty if it cannot be read. The path comes first: the directory may have been
    /// restored from a backup.
    fn read(&self) -> String {
        std::fs::read_to_string(&self.path).ok().or_else(|| self.read_beneath()).unwrap_or_default()
    }

    fn read_beneath(&self) -> Option<String> {
        let (dir, name) = (self.dir.as_ref()?, self.path.file_name()?);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty()).ok()?;
        std::io::read_to_string(std::fs::File::from(file)).ok()
    }
}

impl GrpcConnector {
    /// Creates a connector to these servers, each `https://HOST:PORT`, `http://HOST:PORT` or `unix:PATH`. The nonce
    /// distinguishes this agent from another with the same token.
    pub fn new(servers: Vec<String>, token: String, nonce: Uuid) -> Self {
        let (tls, compression) = (TlsFiles::default(), Compression::default());
        let state = Mutex::default();
        Self { servers, server_file: None, token, nonce, tls, compression, trouble_file: None, state }
    }

    /// Sets the TLS files for `https:` servers.
    #[must_use]
    pub fn with_tls(self, tls: TlsFiles) -> Self {
        Self { tls, ..self }
    }

    /// Sets a file that is read before each connection. It holds URLs separated by commas or line ends, which are tried
    /// first. A platform that restarts at another address writes it there. A file that cannot be read adds no servers.
    #[must_use]
    pub fn with_server_file(self, file: Option<PathBuf>) -> Self {
        Self { server_file: file.map(ServerFile::open), ..self }
    }

    /// Sets when output is compressed.
    #[must_use]
    pub fn with_compression(self, compression: Compression) -> Self {
        Self { compression, ..self }
    }

    /// Sets a file that holds the reason while the platform cannot be reached. It is removed once a connection
    /// succeeds.
    #[must_use]
    pub fn with_trouble_file(self, trouble_file: Option<PathBuf>) -> Self {
        Self { trouble_file, ..self }
    }

    /// Checks that the first server of the list can be reached and that its certificate is trusted.
    ///
    /// # Errors
    /// [`ConnectError`] names the address and the cause.
    pub async fn check(&self) -> Result<(), ConnectError> {
        self.client(&self.next_server()?).await.map(drop)
    }

    fn note(&self, trouble: Option<String>) {
        let Some(path) = &self.trouble_file else { return };
        let mut state = self.state();
        if state.trouble == trouble {
            return;
        }
        // A failure is ignored: the file only informs.
        let _ = match &trouble {
            Some(why) => std::fs::write(path, why),
            None => std::fs::remove_file(path),
        };
        state.trouble = trouble;
    }

    fn compresses(&self, server: &str) -> bool {
        match self.compression {
            Compression::Auto => !is_near(server),
            Compression::Always => true,
            Compression::Never => false,
        }
    }

    /// Tells the platform that the worker leaves, along with its unfinished attempts.
    ///
    /// # Errors
    /// [`ConnectError`] if the platform did not receive it. The platform then notices the loss by itself.
    pub async fn leave(&self) -> Result<(), ConnectError> {
        let Some(credential) = self.state().credential.clone() else { return Ok(()) };
        let mut request = Request::new(v1::UnregisterRequest {});
        request.set_timeout(CALL_TIMEOUT);
        request.metadata_mut().insert("authorization", credential);
        self.client(&self.next_server()?).await?.unregister(request).await.map_err(refused)?;
        Ok(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the server to try next.
    fn next_server(&self) -> Result<String, ConnectError> {
        let written = self.written_servers();
        let mut state = self.state();
        let others = self.servers.iter().chain(&state.learned).filter(|server| !written.contains(server));
        let all: Vec<&String> = written.iter().chain(others).collect();
        let server = all.get(state.next % all.len().max(1)).map(|server| (*server).clone());
        state.next += 1;
        server.ok_or_else(|| {
            ConnectError::Unavailable(
                "no server is configured: name one with --server or in the server file".into(),
            )
        })
    }

    /// Returns the servers of the server file.
    fn written_servers(&self) -> Vec<String> {
        let text = self.server_file.as_ref().map(ServerFile::read).unwrap_or_default();
        let servers = text.split([',', '\n']).map(str::trim).filter(|server| !server.is_empty());
        servers.filter(|server| self.may_try(server)).take(MAX_EXTRA_SERVERS).map(str::to_owned).collect()
    }

    /// Returns whether a server of the file may be tried. If a configured server uses TLS, plain HTTP is allowed only
    /// to this machine.
    fn may_try(&self, server: &str) -> bool {
        let is_private = self.servers.iter().any(|server| server.starts_with("https:"));
        !(is_private && server.starts_with("http:") && !is_near(server))
    }

    async fn client(&self, server: &str) -> Result<WorkerAgentServiceClient<Channel>, ConnectError> {
        let unavailable = |error: &dyn std::fmt::Display| ConnectError::Unavailable(error.to_string());
        let endpoint = Endpoint::from_shared(server.to_owned())
            .map_err(|error| unavailable(&error))?
            .connect_timeout(CALL_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        let endpoint = if server.starts_with("https:") {
            let tls = self.tls.config().map_err(|error| unavailable(&error))?;
            endpoint.tls_config(tls).map_err(|error| unavailable(&error))?
        } else {
            endpoint
        };
        let connected = if resolver::IS_NEEDED && !server.starts_with("unix:") {
            endpoint.connect_with_connector(resolver::connector()).await
        } else {
            endpoint.tcp_nodelay(true).connect().await
        };
        let channel = connected.map_err(|error| unavailable(&format!("{server}: {}", causes(&error))))?;
        let client = WorkerAgentServiceClient::new(channel);
        Ok(client.max_decoding_message_size(WORKER_MESSAGE).max_encoding_message_size(WORKER_MESSAGE))
    }

    async fn credential(
        &self,
        client: &mut WorkerAgentServiceClient<Channel>,
    ) -> Result<MetadataValue<Ascii>, ConnectError> {
        if let Some(credential) = self.state().credential.clone() {
            return Ok(credential);
        }
        let nonce = bytes::Bytes::copy_from_slice(self.nonce.as_bytes());
        let mut request =
            Request::new(v1::RegisterRequest { token: self.token.clone(), nonce, version: PROTOCOL_VERSION });
        request.set_timeout(CALL_TIMEOUT);
        let answer = client.register(request).await.map_err(refused)?.into_inner();
        let mut credential: MetadataValue<Ascii> = format!("Bearer {}", answer.credential)
            .parse()
            .map_err(|_| ConnectError::Unavailable("the credential is malformed".into()))?;
        credential.set_sensitive(true);
        tracing::info!(worker = %answer.worker_id, "registered");
        self.state().credential = Some(credential.clone());
        Ok(credential)
    }
}

/// Joins the causes of an error without the outermost one, which adds nothing to them.
fn causes(error: &dyn std::error::Error) -> String {
    let (mut said, mut next) = (Vec::new(), Some(error));
    while let Some(cause) = next {
        said.push(cause.to_string());
        next = cause.source();
    }
    said.dedup();
    match said.as_slice() {
        [only] => only.clone(),
        [_, causes @ ..] => causes.join(": "),
        [] => String::new(),
    }
}

fn refused(status: Status) -> ConnectError {
    let why = status.message().to_owned();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::FailedPrecondition => {
            ConnectError::Refused(why)
        }
        code => ConnectError::Unavailable(format!("{code}: {why}")),
    }
}

fn transfer_error(status: Status) -> TransferError {
    let why = status.message().to_owned();
    match status.code() {
        Code::PermissionDenied | Code::Aborted => TransferError::Fenced,
        Code::FailedPrecondition | Code::InvalidArgument | Code::NotFound | Code::OutOfRange => {
            TransferError::Refused(why)
        }
        Code::DataLoss | Code::Unimplemented => TransferError::Broken(why),
        code => TransferError::Unavailable(format!("{code}: {why}")),
    }
}

impl GrpcConnector {
    /// Prepares a call to the server of the stream over a second connection: transfers that wait for a slow store or
    /// disk would hold up heartbeats on the first. The connection stays open while the returned `Arc` is held.
    async fn beside<T>(&self, message: T) -> Result<(Arc<Beside>, BesideClient, Request<T>), TransferError> {
        let (beside, credential) = self.shared()?;
        let client = beside.client.get_or_try_init(|| self.client(&beside.server)).await?.clone();
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", credential);
        Ok((beside, client, request))
    }

    /// Returns the connection of the transfers in progress, or a new one if there are none or the server changed.
    fn shared(&self) -> Result<(Arc<Beside>, MetadataValue<Ascii>), TransferError> {
        let mut state = self.state();
        let (Some(server), Some(credential)) = (state.server.clone(), state.credential.clone()) else {
            return Err(TransferError::Unavailable("the agent has no stream to the platform".into()));
        };
        if let Some(beside) = state.beside.upgrade().filter(|beside| beside.server == server) {
            return Ok((beside, credential));
        }
        let beside = Arc::new(Beside { server, client: OnceCell::new() });
        state.beside = Arc::downgrade(&beside);
        Ok((beside, credential))
    }
}

#[async_trait]
impl ArtifactChannel for GrpcConnector {
    async fn fetch(&self, request: v1::FetchRequest) -> Result<ArtifactParts, TransferError> {
        let (beside, mut client, request) = self.beside(request).await?;
        let mut answers = client.fetch(request).await.map_err(transfer_error)?.into_inner();
        let (to_agent, parts) = mpsc::channel(4);
        // The task lives as long as the channel: it ends at its next wait after the receiver is dropped.
        #[allow(clippy::disallowed_methods, reason = "owned by the channel")]
        tokio::spawn(async move {
            let _open = beside;
            loop {
                let answer = tokio::select! {
                    biased;
                    () = to_agent.closed() => return,
                    answer = answers.message() => answer.map_err(transfer_error).transpose(),
                };
                let Some(answer) = answer else { return };
                let part = answer.map(|answer| answer.part.unwrap_or_default());
                if to_agent.send(part).await.is_err() {
                    return;
                }
            }
        });
        Ok(parts)
    }

    async fn store(&self, requests: mpsc::Receiver<v1::StoreRequest>) -> Result<(), TransferError> {
        let (_open, mut client, request) = self.beside(ReceiverStream::new(requests)).await?;
        client.store(request).await.map(drop).map_err(transfer_error)
    }
}

#[async_trait]
impl Connector for GrpcConnector {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let connected = self.open().await;
        self.note(connected.as_ref().err().map(ToString::to_string));
        connected
    }

    fn learn(&self, servers: &[String]) {
        // If a configured server uses TLS, no announced server may use plain HTTP.
        let is_private = self.servers.iter().any(|server| server.starts_with("https:"));
        let may = |server: &&String| !(is_private && server.starts_with("http:"));
        let others = servers.iter().filter(|server| !self.servers.contains(server)).filter(may);
        self.state().learned = others.take(MAX_EXTRA_SERVERS).cloned().collect();
    }
}

impl GrpcConnector {
    async fn open(&self) -> Result<Connection, ConnectError> {
        let server = self.next_server()?;
        let (mut client, compresses) = (self.client(&server).await?, self.compresses(&server));
        let credential = self.credential(&mut client).await?;
        let (outgoing, to_platform) = mpsc::channel(MAX_QUEUED_MESSAGES);
        let (packs, mut packer) = (Arc::new(AtomicBool::new(false)), LogPacker::default());
        let to_pack = packs.clone();
        let packed = ReceiverStream::new(to_platform)
            .map(move |message| if to_pack.load(Ordering::Relaxed) { packer.pack(message) } else { message });
        let mut request = Request::new(packed);
        request.metadata_mut().insert("authorization", credential);
        let mut messages = client.worker_stream(request).await.map_err(refused)?.into_inner();
        self.state().server = Some(server);
        let (to_agent, incoming) = mpsc::channel(MAX_QUEUED_MESSAGES);
        // The task lives as long as the connection: it ends at its next wait after the receiver is dropped.
        #[allow(clippy::disallowed_methods, reason = "owned by the connection")]
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = to_agent.closed() => return,
                    message = messages.message() => match message {
                        Ok(Some(message)) => {
                            if let Some(Body::Welcome(welcome)) = &message.body {
                                packs.store(compresses && welcome.takes_packed_logs, Ordering::Relaxed);
                            }
                            if to_agent.send(message).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) => return,
                        Err(error) => return tracing::debug!(%error, "the stream broke"),
                    }
                }
            }
        });
        Ok(Connection { outgoing, incoming })
    }
}
