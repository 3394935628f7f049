//! The client of a daemon: implements the seams of the public handle over gRPC. This file connects; each area has its
//! own file.

mod artifacts;
mod completions;
mod events;
mod jobs;
mod patience;
mod queue;
mod secrets;
mod streams;
mod tokens;
mod workers;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use hodei_core::port::{Clock, ClockExt, IdGenerator};
use hodei_proto::tls::TlsFiles;
use hodei_proto::v1;
use hodei_proto::v1::access_service_client::AccessServiceClient;
use hodei_proto::v1::job_execution_service_client::JobExecutionServiceClient;
use hodei_proto::v1::log_stream_service_client::LogStreamServiceClient;
use hodei_proto::v1::scheduler_service_client::SchedulerServiceClient;
use hodei_proto::v1::secret_service_client::SecretServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use self::patience::{Patience, Servers};
use crate::clock::SystemClock;
use crate::error::{Error, RefusalKind, Refused};
use crate::ids::SystemIds;
use crate::wire::refusal::error_of;

/// Options for the connection to a daemon.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// `https://HOST:PORT`, `http://HOST:PORT`, or `unix:PATH` of a socket. Several URLs name daemons that share a
    /// store: the client calls the first that answers, and the next one when that goes away.
    pub urls: Vec<String>,
    /// The token to send; none is sent if it is `None` or blank.
    pub token: Option<String>,
    /// The file to read the token from if there is no `token`.
    pub token_file: Option<PathBuf>,
    /// Certificates for URLs with `https:`.
    pub tls: TlsFiles,
    /// Time for which calls are retried while no daemon answers; 30 s by default. Connecting does not retry.
    pub patience: Duration,
}

impl ConnectOptions {
    /// Options for a daemon that requires no token.
    pub fn new(url: impl Into<String>) -> Self {
        let (urls, tls) = (vec![url.into()], TlsFiles::default());
        Self { urls, token: None, token_file: None, tls, patience: Duration::from_secs(30) }
    }
}

/// Timeout to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of HTTP/2 pings. A connection is closed if a ping is not answered within the same time.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The client of one daemon, or of several that share a store.
#[derive(Clone)]
pub(crate) struct DaemonClient {
    servers: Arc<Servers>,
    patience: Duration,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGenerator>,
}

type Service = InterceptedService<Channel, Bearer>;

#[derive(Debug, Clone)]
struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// Of a token, or else of the file that has it; of neither it sends none.
    fn of(token: Option<String>, token_file: Option<PathBuf>) -> Result<Self, Error> {
        let token = match (token, token_file) {
            (Some(token), _) => Some(token),
            (None, Some(path)) => Some(std::fs::read_to_string(&path).map_err(|error| {
                let path = path.display();
                refuse(RefusalKind::Unauthenticated, format!("the token file {path} cannot be read: {error}"))
            })?),
            (None, None) => None,
        };
        let token = token.filter(|token| !token.trim().is_empty());
        let value = token.map(|token| format!("Bearer {}", token.trim()).parse()).transpose();
        let refused = |_| {
            refuse(RefusalKind::Unauthenticated, "the token has invalid characters: copy it again".into())
        };
        Ok(Self(value.map_err(refused)?))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Timeout of the call that checks the token while connecting.
const FIRST_CALL_TIMEOUT: Duration = Duration::from_secs(10);

impl fmt::Debug for DaemonClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaemonClient").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl DaemonClient {
    pub(crate) async fn connect(options: ConnectOptions) -> Result<Self, Error> {
        let ConnectOptions { urls, token, token_file, tls, patience } = options;
        let bearer = Bearer::of(token, token_file)?;
        let has_certificate = tls.cert.is_some();
        let endpoints = urls.iter().map(|url| endpoint(url, &tls)).collect::<Result<Vec<_>, _>>()?;
        // One daemon must be reachable now; the others may start later.
        let (mut first, mut missed) = (None, Vec::new());
        for (number, endpoint) in endpoints.iter().enumerate() {
            match endpoint.connect().await {
                Ok(channel) => {
                    first = Some((number, channel));
                    break;
                }
                Err(error) => missed.push(format!("{}: {}", urls[number], root_cause(&error))),
            }
        }
        let Some((current, channel)) = first else {
            let missed = missed.join("; ");
            let why = if missed.contains("InvalidContentType") {
                format!("no TLS at {missed}: write http: for a daemon without certificates")
            } else if missed.contains("certificate") || missed.contains("UnknownIssuer") {
                format!("untrusted certificate at {missed}: name its CA with --ca-file")
            } else {
                format!("there is no daemon at {missed}; start `hodei-daemon`, or name another with --server")
            };
            return Err(refuse(RefusalKind::Unavailable, why));
        };
        let channels = endpoints.iter().enumerate().map(|(number, endpoint)| {
            if number == current { channel.clone() } else { endpoint.connect_lazy() }
        });
        let services = channels.map(|channel| InterceptedService::new(channel, bearer.clone()));
        let services = urls.into_iter().zip(services).collect();
        let client = Self {
            servers: Arc::new(Servers { services, current: AtomicUsize::new(current) }),
            patience,
            clock: Arc::new(SystemClock::default()),
            ids: Arc::new(SystemIds::default()),
        };
        // Checks the token now, so that a wrong one fails here and not at the first call of the caller.
        let mut jobs = client.job_stub();
        let asked = jobs.list(v1::ListRequest { page_size: 1, ..v1::ListRequest::default() });
        let why = match client.clock.timeout(FIRST_CALL_TIMEOUT, asked).await {
            Ok(Ok(_)) => return Ok(client),
            // The daemon answers, but its store is unavailable: later calls are retried.
            Ok(Err(status)) if is_answer(&status) && status.code() == Code::Unavailable => {
                return Ok(client);
            }
            // From the daemon, not from a broken connection.
            Ok(Err(status)) if is_answer(&status) => return Err(error_of(&status)),
            Ok(Err(status)) => root_cause(&status),
            Err(elapsed) => elapsed.to_string(),
        };
        let hint = if client.url().starts_with("https:") && has_certificate {
            "; a daemon that rejects the client certificate closes the connection like this"
        } else {
            ""
        };
        let why = format!("the server at {} does not answer as a daemon of Hodei: {why}{hint}", client.url());
        Err(refuse(RefusalKind::Unavailable, why))
    }

    fn job_stub(&self) -> JobExecutionServiceClient<Service> {
        JobExecutionServiceClient::new(self.servers.current().1.clone()).max_decoding_message_size(usize::MAX)
    }

    fn scheduler_stub(&self) -> SchedulerServiceClient<Service> {
        SchedulerServiceClient::new(self.servers.current().1.clone()).max_decoding_message_size(usize::MAX)
    }

    fn log_stub(&self) -> LogStreamServiceClient<Service> {
        LogStreamServiceClient::new(self.servers.current().1.clone()).max_decoding_message_size(usize::MAX)
    }

    fn secret_stub(&self) -> SecretServiceClient<Service> {
        SecretServiceClient::new(self.servers.current().1.clone())
    }

    fn access_stub(&self) -> AccessServiceClient<Service> {
        AccessServiceClient::new(self.servers.current().1.clone())
    }

    pub(crate) fn url(&self) -> &str {
        &self.servers.current().0
    }

    fn malformed(&self, why: &dyn std::fmt::Display) -> Error {
        let message =
            format!("the daemon at {} sent an answer that this version cannot read: {why}", self.url());
        Error::Refused(Refused { kind: RefusalKind::Internal, field: None, message })
    }

    /// Makes an idempotent call, with retries until a daemon answers or the time for retries is over.
    async fn call<T, F>(&self, call: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut waits = Patience::new(self);
        loop {
            match call().await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => waits.after(status).await?,
            }
        }
    }
}

/// Whether a daemon sent this status. Otherwise the transport created it for a broken connection, with a source.
fn is_answer(status: &Status) -> bool {
    std::error::Error::source(status).is_none()
}

fn refuse(kind: RefusalKind, message: String) -> Error {
    Error::Refused(Refused { kind, field: None, message })
}

fn endpoint(url: &str, tls: &TlsFiles) -> Result<Endpoint, Error> {
    let is_address = ["https://", "http://", "unix:"].iter().any(|scheme| url.starts_with(scheme));
    // An invalid port would silently become the default port.
    let has_port = |endpoint: &Endpoint| {
        let Some(authority) = endpoint.uri().authority() else { return true };
        let behind_host = authority.as_str().rsplit(']').next().unwrap_or_default();
        authority.port_u16().is_some() || !behind_host.contains(':')
    };
    let endpoint =
        Endpoint::from_shared(url.to_owned()).ok().filter(|endpoint| is_address && has_port(endpoint));
    let endpoint = endpoint.ok_or_else(|| {
        let why = format!(
            "`{url}` is not a valid address of a daemon: write https://HOST:PORT, http://HOST:PORT or unix:PATH"
        );
        refuse(RefusalKind::Invalid, why)
    })?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).http2_keep_alive_interval(PING_INTERVAL);
    let endpoint = endpoint.keep_alive_timeout(PING_INTERVAL).tcp_nodelay(true);
    if !url.starts_with("https:") {
        return Ok(endpoint);
    }
    let wrong = |error: &dyn std::fmt::Display| refuse(RefusalKind::Invalid, error.to_string());
    let config = tls.config().map_err(|error| wrong(&error))?;
    endpoint.tls_config(config).map_err(|error| wrong(&root_cause(&error)))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_with_an_invalid_port_or_scheme_is_refused() {
        for url in ["http://h:1", "http://h", "http://[::1]", "http://[::1]:65535", "unix:/run/h"] {
            assert!(endpoint(url, &TlsFiles::default()).is_ok(), "{url}");
        }
        for url in
            ["http://h:99999", "http://h:x", "http://h:", "http://[::1]:65536", "h:1", "ftp://h:1", "unix"]
        {
            let error = endpoint(url, &TlsFiles::default()).unwrap_err();
            assert!(error.to_string().contains("is not a valid address of a daemon"), "{url}: {error}");
        }
    }
}
