//! The way to a platform in another process.

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

/// Connects over gRPC to the first server of a list that answers, with a bootstrap token at first, with the
/// credential that it bought from then on.
#[derive(Debug)]
pub struct GrpcConnector {
    servers: Vec<String>,
    /// Says where the platform is now.
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
    /// The server of the present stream, or of the last.
    server: Option<String>,
    /// Servers that the platform told of, beside those that were named.
    learned: Vec<String>,
    /// The server that is tried next.
    next: usize,
    /// Why the last try led nowhere, as the file says.
    trouble: Option<String>,
    /// The connection of the transfers that are under way.
    beside: Weak<Beside>,
}

type BesideClient = WorkerAgentServiceClient<Channel>;

/// A connection that the transfers of artifacts share, and which is closed behind the last of them.
#[derive(Debug)]
struct Beside {
    server: String,
    client: OnceCell<BesideClient>,
}

/// A connection, and an answer to a call that is no stream, is there within this.
const LIMIT: Duration = Duration::from_secs(5);
/// A server that does not answer a ping is gone.
const PING: Duration = Duration::from_secs(10);
/// Servers that are kept of those the platform tells of.
const LEARNED: usize = 64;
/// Messages that may wait in either direction.
const WAITING: usize = 256;

/// Where the platform says where it is.
#[derive(Debug)]
struct ServerFile {
    path: PathBuf,
    /// Its directory, which may be renamed from here on; `None` where it cannot be opened.
    dir: Option<OwnedFd>,
}

impl ServerFile {
    fn open(path: PathBuf) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = path.parent().and_then(|dir| rustix::fs::open(dir, flags, Mode::empty()).ok());
        Self { path, dir }
    }

    /// Its text; empty where it cannot be read. The path counts first: the directory may have been put back from a backup.
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
    /// A connector over these URLs, each `https://HOST:PORT`, `http://HOST:PORT` or `unix:PATH`. The nonce tells this agent from another
    /// with the same token.
    pub fn new(servers: Vec<String>, token: String, nonce: Uuid) -> Self {
        let (tls, compression) = (TlsFiles::default(), Compression::default());
        let state = Mutex::default();
        Self { servers, server_file: None, token, nonce, tls, compression, trouble_file: None, state }
    }

    /// The same, by these files where a URL is `https:`.
    #[must_use]
    pub fn with_tls(self, tls: TlsFiles) -> Self {
        Self { tls, ..self }
    }

    /// The same, that reads this file before each connection: URLs with commas or line ends between, tried first. A
    /// platform that comes back at another address writes it there. A file that cannot be read names none.
    #[must_use]
    pub fn with_server_file(self, file: Option<PathBuf>) -> Self {
        Self { server_file: file.map(ServerFile::open), ..self }
    }

    /// The same, that compresses output when this says so.
    #[must_use]
    pub fn with_compression(self, compression: Compression) -> Self {
        Self { compression, ..self }
    }

    /// The same, that writes to this file why it does not reach the platform, and removes it once it does.
    #[must_use]
    pub fn with_trouble_file(self, trouble_file: Option<PathBuf>) -> Self {
        Self { trouble_file, ..self }
    }

    /// Whether a server can be reached, and its certificate be trusted: the first of the list.
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
        // A file that cannot be written or removed is no reason to end.
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

    /// Tells the platform that the worker leaves with whatever it still had.
    ///
    /// # Errors
    /// [`ConnectError`] when nobody heard it; the platform will find out by itself.
    pub async fn leave(&self) -> Result<(), ConnectError> {
        let Some(credential) = self.state().credential.clone() else { return Ok(()) };
        let mut request = Request::new(v1::UnregisterRequest {});
        request.set_timeout(LIMIT);
        request.metadata_mut().insert("authorization", credential);
        self.client(&self.next_server()?).await?.unregister(request).await.map_err(refused)?;
        Ok(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server that is tried next.
    fn next_server(&self) -> Result<String, ConnectError> {
        let written = self.written_servers();
        let mut state = self.state();
        let others = self.servers.iter().chain(&state.learned).filter(|server| !written.contains(server));
        let all: Vec<&String> = written.iter().chain(others).collect();
        let server = all.get(state.next % all.len().max(1)).map(|server| (*server).clone());
        state.next += 1;
        server.ok_or_else(|| ConnectError::Unavailable("no server is named".into()))
    }

    /// Those of the file.
    fn written_servers(&self) -> Vec<String> {
        let text = self.server_file.as_ref().map(ServerFile::read).unwrap_or_default();
        let servers = text.split([',', '\n']).map(str::trim).filter(|server| !server.is_empty());
        servers.filter(|server| self.may_try(server)).take(LEARNED).map(str::to_owned).collect()
    }

    /// Whether a server that was not named may be tried: what is said over TLS is said in clear on this machine alone.
    fn may_try(&self, server: &str) -> bool {
        let is_private = self.servers.iter().any(|server| server.starts_with("https:"));
        !(is_private && server.starts_with("http:") && !is_near(server))
    }

    async fn client(&self, server: &str) -> Result<WorkerAgentServiceClient<Channel>, ConnectError> {
        let unavailable = |error: &dyn std::fmt::Display| ConnectError::Unavailable(error.to_string());
        let endpoint = Endpoint::from_shared(server.to_owned())
            .map_err(|error| unavailable(&error))?
            .connect_timeout(LIMIT)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
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
        request.set_timeout(LIMIT);
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

/// What went wrong, from the cause that is nearest to the network: what wraps it says only that something did.
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
    /// A call to the server of the stream over another connection: what waits there, for a store that is slow or a disk,
    /// would hold up heartbeats on the first. It is open while its owner is held.
    async fn beside<T>(&self, message: T) -> Result<(Arc<Beside>, BesideClient, Request<T>), TransferError> {
        let (beside, credential) = self.shared()?;
        let client = beside.client.get_or_try_init(|| self.client(&beside.server)).await?.clone();
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", credential);
        Ok((beside, client, request))
    }

    /// The connection of the transfers under way, or a new one where there are none or the server is another.
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
        // It lives as long as the channel: whoever drops that ends it at its next wait.
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
        // What is said over TLS is said in clear nowhere.
        let is_private = self.servers.iter().any(|server| server.starts_with("https:"));
        let may = |server: &&String| !(is_private && server.starts_with("http:"));
        let others = servers.iter().filter(|server| !self.servers.contains(server)).filter(may);
        self.state().learned = others.take(LEARNED).cloned().collect();
    }
}

impl GrpcConnector {
    async fn open(&self) -> Result<Connection, ConnectError> {
        let server = self.next_server()?;
        let (mut client, compresses) = (self.client(&server).await?, self.compresses(&server));
        let credential = self.credential(&mut client).await?;
        let (outgoing, to_platform) = mpsc::channel(WAITING);
        let (packs, mut packer) = (Arc::new(AtomicBool::new(false)), LogPacker::default());
        let to_pack = packs.clone();
        let packed = ReceiverStream::new(to_platform)
            .map(move |message| if to_pack.load(Ordering::Relaxed) { packer.pack(message) } else { message });
        let mut request = Request::new(packed);
        request.metadata_mut().insert("authorization", credential);
        let mut messages = client.worker_stream(request).await.map_err(refused)?.into_inner();
        self.state().server = Some(server);
        let (to_agent, incoming) = mpsc::channel(WAITING);
        // It lives as long as the connection: whoever drops that ends it at its next wait.
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
