//! A platform in another process, by the same handle.

mod artifact;
mod ends;
mod follow;
mod lists;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hodei_core::access::{TokenTerms, TokenView};
use hodei_core::event::Envelope;
use hodei_core::id::{JobId, TokenId, WorkerId};
use hodei_core::job::{Job, JobSpec};
use hodei_core::port::{Clock, ClockExt, FeedCursor, FeedPage, IdGenerator, JobFilter, JobPage};
use hodei_core::scheduling::SchedulingDecision;
use hodei_core::secret::{SecretName, SecretValue};
use hodei_core::worker::WorkerView;
use hodei_proto::convert::{
    job_from_wire, parse, parse_some, secret_to_wire, spec_to_wire, status_to_wire, terms_to_wire,
    token_from_wire, worker_from_wire,
};
use hodei_proto::tls::{TlsFiles, is_near};
use hodei_proto::v1::access_service_client::AccessServiceClient;
use hodei_proto::v1::job_execution_service_client::JobExecutionServiceClient;
use hodei_proto::v1::log_stream_service_client::LogStreamServiceClient;
use hodei_proto::v1::scheduler_service_client::SchedulerServiceClient;
use hodei_proto::v1::secret_service_client::SecretServiceClient;
use hodei_proto::v1::submit_result::Result as Submitted;
use hodei_proto::v1::{self};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::app::{JobEnds, JobFeed, JobLogs, JobWatch, fitting};
use crate::clock::SystemClock;
use crate::error::{Error, Refused};
use crate::ids::SystemIds;
use crate::wire::refusal::{self, error_of};
use crate::wire::scheduling::{decision_from_wire, queue_from_wire};
use hodei_core::scheduling::QueueStatus;

/// How to reach a daemon.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// `https://HOST:PORT`, `http://HOST:PORT`, or `unix:PATH` of a socket. Of daemons that share a store any will do: the first that answers
    /// is asked, and when it goes away the next.
    pub urls: Vec<String>,
    /// What the daemon wants to see; `None` or blank sends none.
    pub token: Option<String>,
    /// The file that the token is read from, when there is no `token`.
    pub token_file: Option<PathBuf>,
    /// What is gone by where a URL is `https:`.
    pub tls: TlsFiles,
    /// How long calls go on asking a daemon that is away; 30 s. The first call of all does not wait.
    pub patience: Duration,
}

impl ConnectOptions {
    /// A daemon that wants no token.
    pub fn new(url: impl Into<String>) -> Self {
        let (urls, tls) = (vec![url.into()], TlsFiles::default());
        Self { urls, token: None, token_file: None, tls, patience: Duration::from_secs(30) }
    }
}

/// A connection is there within this.
const CONNECT: Duration = Duration::from_secs(5);
/// A daemon that does not answer a ping is gone.
const PING: Duration = Duration::from_secs(10);
/// The first wait before a daemon that is away is asked again; it grows to sixteen times as much.
const AGAIN: Duration = Duration::from_millis(50);
/// A daemon that is away for this long is worth a word.
const A_WHILE: Duration = Duration::from_secs(2);
/// Jobs of a page that a daemon gives at most.
const PAGE: usize = 1_000;
/// Jobs of one batch, and bytes of their specs: what a server takes at once, with room for the rest of the message.
const BATCH: (usize, usize) = (1_000, 1 << 20);

/// Calls a daemon.
#[derive(Debug, Clone)]
pub(crate) struct DaemonClient {
    servers: Arc<Servers>,
    patience: Duration,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGenerator>,
}

/// The daemons that may be asked.
#[derive(Debug)]
struct Servers {
    /// With where each is reached; never empty.
    services: Vec<(String, Service)>,
    /// Which is asked now, counted on without end.
    current: AtomicUsize,
}

type Service = InterceptedService<Channel, Bearer>;

impl Servers {
    fn current(&self) -> &(String, Service) {
        &self.services[self.current.load(Ordering::Relaxed) % self.services.len()]
    }

    /// From now on the next is asked, unless that one is asked already.
    fn pass_over(&self, number: usize) {
        let _ = self.current.compare_exchange(
            number,
            number.wrapping_add(1),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}

#[derive(Debug, Clone)]
struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// How long the first call waits.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

impl DaemonClient {
    pub(crate) async fn connect(options: ConnectOptions) -> Result<Self, Error> {
        let ConnectOptions { urls, token, token_file, tls, patience } = options;
        let token = match (token, token_file) {
            (Some(token), _) => Some(token),
            (None, Some(path)) => Some(std::fs::read_to_string(&path).map_err(|error| {
                let path = path.display();
                refuse(Code::Unauthenticated, format!("the token file {path} cannot be read: {error}"))
            })?),
            (None, None) => None,
        };
        let token = token.filter(|token| !token.trim().is_empty());
        let bearer = token.map(|token| format!("Bearer {}", token.trim()).parse()).transpose();
        let bearer = bearer.map_err(|_| {
            refuse(Code::Unauthenticated, "the token has characters that no token has".into())
        })?;
        let has_certificate = tls.cert.is_some();
        let endpoints = urls.iter().map(|url| endpoint(url, &tls)).collect::<Result<Vec<_>, _>>()?;
        // One must be there now; the others may come later.
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
                format!(
                    "what is at {missed}, which is not TLS: write http: for a daemon without certificates"
                )
            } else if missed.contains("certificate") || missed.contains("UnknownIssuer") {
                format!("what is at {missed}: say with --ca-file who signed its certificate")
            } else {
                format!("there is no daemon at {missed}; start `hodei-daemon`, or name another with --server")
            };
            return Err(refuse(Code::Unavailable, why));
        };
        let channels = endpoints.iter().enumerate().map(|(number, endpoint)| {
            if number == current { channel.clone() } else { endpoint.connect_lazy() }
        });
        let services = channels.map(|channel| InterceptedService::new(channel, Bearer(bearer.clone())));
        let services = urls.into_iter().zip(services).collect();
        let client = Self {
            servers: Arc::new(Servers { services, current: AtomicUsize::new(current) }),
            patience,
            clock: Arc::new(SystemClock::default()),
            ids: Arc::new(SystemIds::default()),
        };
        // Whether the token is right is said here, not by the first call that happens to be made.
        let mut jobs = client.jobs();
        let asked = jobs.list(v1::ListRequest { page_size: 1, ..v1::ListRequest::default() });
        let why = match client.clock.timeout(FIRST_ANSWER, asked).await {
            Ok(Ok(_)) => return Ok(client),
            // It is a daemon, and its store has it wait: calls are tried again, for as long as they may be.
            Ok(Err(status)) if is_said(&status) && status.code() == Code::Unavailable => return Ok(client),
            // Said by a daemon, and not made here of a connection that broke.
            Ok(Err(status)) if is_said(&status) => return Err(error_of(&status)),
            Ok(Err(status)) => root_cause(&status),
            Err(elapsed) => elapsed.to_string(),
        };
        let hint = if client.url().starts_with("https:") && has_certificate {
            "; a daemon that does not take our certificate breaks off like that"
        } else {
            ""
        };
        let why = format!("what is at {} does not answer as a daemon of Hodei: {why}{hint}", client.url());
        Err(refuse(Code::Unavailable, why))
    }

    fn jobs(&self) -> JobExecutionServiceClient<Service> {
        JobExecutionServiceClient::new(self.servers.current().1.clone()).max_decoding_message_size(usize::MAX)
    }

    fn scheduler(&self) -> SchedulerServiceClient<Service> {
        SchedulerServiceClient::new(self.servers.current().1.clone()).max_decoding_message_size(usize::MAX)
    }

    fn output(&self) -> LogStreamServiceClient<Service> {
        LogStreamServiceClient::new(self.servers.current().1.clone()).max_decoding_message_size(usize::MAX)
    }

    fn secrets(&self) -> SecretServiceClient<Service> {
        SecretServiceClient::new(self.servers.current().1.clone())
    }

    fn access(&self) -> AccessServiceClient<Service> {
        AccessServiceClient::new(self.servers.current().1.clone())
    }

    pub(crate) fn url(&self) -> &str {
        &self.servers.current().0
    }

    pub(crate) async fn submit_many(
        &self,
        mut jobs: Vec<(Option<JobId>, JobSpec)>,
    ) -> Result<Vec<Result<(JobId, bool), Error>>, Error> {
        let mut answers = Vec::with_capacity(jobs.len());
        // The ids are made here, so a batch whose answer was lost may be sent again.
        let id = |id: Option<JobId>| id.unwrap_or_else(|| JobId::from_uuid(self.ids.uuid(self.clock.now())));
        while !jobs.is_empty() {
            let sizes = jobs.iter().map(|(_, spec)| spec.size());
            let rest = jobs.split_off(fitting(sizes, BATCH.0, BATCH.1));
            let is_given: Vec<bool> = jobs.iter().map(|(given, _)| given.is_some()).collect();
            let request = |(given, spec): (Option<JobId>, JobSpec)| v1::SubmitRequest {
                job_id: id(given).to_string(),
                spec: Some(spec_to_wire(&spec)),
            };
            let requests: Vec<_> = jobs.into_iter().map(request).collect();
            let made: Vec<String> = requests.iter().map(|request| request.job_id.clone()).collect();
            let submitted =
                self.submit_batch(requests).await?.into_iter().zip(made.into_iter().zip(is_given));
            answers.extend(submitted.map(|(answer, (asked, is_given))| {
                // An id of this call's own may be found by its repeat, after an answer that was lost.
                answer.map(|(id, found)| (id, found && (is_given || id.to_string() != asked)))
            }));
            jobs = rest;
        }
        Ok(answers)
    }

    async fn submit_batch(
        &self,
        jobs: Vec<v1::SubmitRequest>,
    ) -> Result<Vec<Result<(JobId, bool), Error>>, Error> {
        let request = v1::SubmitBatchRequest { jobs };
        let answer = self.call(|| async { self.jobs().submit_batch(request.clone()).await }).await?;
        let read = |result: v1::SubmitResult| match result.result {
            Some(Submitted::JobId(id)) => {
                let id = parse("job_id", &id).map_err(|error| self.malformed(&error))?;
                Ok((id, result.found))
            }
            Some(Submitted::Refusal(refused)) => Err(refusal::error(refused)),
            None => Err(self.malformed(&"an answer is empty")),
        };
        Ok(answer.results.into_iter().map(read).collect())
    }

    pub(crate) async fn get(&self, id: JobId) -> Result<Arc<Job>, Error> {
        let answer = self.call(|| async { self.jobs().get(v1::GetRequest { job_id: id.to_string() }).await });
        self.job(answer.await?.job)
    }

    pub(crate) async fn list(&self, filter: JobFilter) -> Result<JobPage, Error> {
        let request = v1::ListRequest {
            statuses: filter.statuses.iter().map(|status| status_to_wire(*status).into()).collect(),
            labels: filter.labels.into_iter().collect(),
            page_size: u32::try_from(filter.limit.min(PAGE)).unwrap_or(u32::MAX),
            page_token: filter.after.map(|id| id.to_string()).unwrap_or_default(),
        };
        let answer = self.call(|| async { self.jobs().list(request.clone()).await }).await?;
        let jobs = answer.jobs.into_iter().map(|job| self.job(Some(job))).collect::<Result<_, _>>()?;
        let next = parse_some("next_page_token", &answer.next_page_token).map_err(|e| self.malformed(&e))?;
        Ok(JobPage { jobs, next })
    }

    pub(crate) async fn cancel(&self, id: JobId) -> Result<Arc<Job>, Error> {
        let answer =
            self.call(|| async { self.jobs().cancel(v1::CancelRequest { job_id: id.to_string() }).await });
        self.job(answer.await?.job)
    }

    /// Not repeated: the daemon makes the id of the new job.
    pub(crate) async fn retry(&self, id: JobId, force: bool) -> Result<JobId, Error> {
        let answer = self.jobs().retry(v1::RetryRequest { job_id: id.to_string(), force }).await;
        let answer = answer.map_err(|status| error_of(&status))?.into_inner();
        parse("job_id", &answer.job_id).map_err(|error| self.malformed(&error))
    }

    pub(crate) async fn events(
        &self,
        job: Option<JobId>,
        after: &FeedCursor,
        limit: usize,
    ) -> Result<FeedPage, Error> {
        let request = v1::ListEventsRequest {
            job_id: job.map(|id| id.to_string()).unwrap_or_default(),
            cursor: after.as_str().to_owned(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let answer = self.call(|| async { self.jobs().list_events(request.clone()).await }).await?;
        let events = answer.events.into_iter().map(crate::wire::event::event_from_wire);
        let events = events.collect::<Result<_, _>>().map_err(|error| self.malformed(&error))?;
        Ok(FeedPage { events, next: FeedCursor::new(answer.next_cursor) })
    }

    /// All events of a job.
    pub(crate) async fn history(&self, id: JobId) -> Result<Vec<Envelope>, Error> {
        let (mut all, mut after) = (Vec::new(), FeedCursor::default());
        loop {
            let page = self.events(Some(id), &after, 0).await?;
            if page.events.is_empty() {
                return Ok(all);
            }
            all.extend(page.events);
            after = page.next;
        }
    }

    pub(crate) async fn queue(&self) -> Result<QueueStatus, Error> {
        let answer =
            self.call(|| async { self.scheduler().get_queue_status(v1::GetQueueStatusRequest {}).await });
        queue_from_wire(answer.await?).map_err(|error| self.malformed(&error))
    }

    pub(crate) async fn explain(&self, id: JobId) -> Result<SchedulingDecision, Error> {
        let request = v1::GetSchedulingDecisionRequest { job_id: id.to_string() };
        let call = || async { self.scheduler().get_scheduling_decision(request.clone()).await };
        decision_from_wire(self.call(call).await?).map_err(|error| self.malformed(&error))
    }

    pub(crate) async fn worker(&self, id: WorkerId) -> Result<Option<WorkerView>, Error> {
        let worker_id = id.to_string();
        let call = || async {
            match self.scheduler().get_worker(v1::GetWorkerRequest { worker_id: worker_id.clone() }).await {
                Err(status) if status.code() == Code::NotFound => {
                    Ok(Response::new(v1::GetWorkerResponse::default()))
                }
                answer => answer,
            }
        };
        let found = self.call(call).await?.worker.map(worker_from_wire).transpose();
        found.map_err(|error| self.malformed(&error))
    }

    pub(crate) async fn drain_worker(&self, id: WorkerId) -> Result<WorkerView, Error> {
        let request = v1::DrainWorkerRequest { worker_id: id.to_string() };
        let answer = self.call(|| async { self.scheduler().drain_worker(request.clone()).await }).await?;
        let worker = answer.worker.ok_or_else(|| self.malformed(&"the worker is missing"))?;
        worker_from_wire(worker).map_err(|error| self.malformed(&error))
    }

    pub(crate) async fn put_secret(&self, name: &SecretName, value: SecretValue) -> Result<(), Error> {
        let is_private = |(url, _): &(String, Service)| !url.starts_with("http:") || is_near(url);
        // Any of them may be asked.
        if !self.servers.services.iter().all(is_private) {
            let why = "others can read a connection by http: put secrets over https, or from the daemon's own machine";
            return Err(refuse(Code::FailedPrecondition, why.into()));
        }
        let request = v1::PutSecretRequest { name: name.to_string(), value: secret_to_wire(&value) };
        self.call(|| async { self.secrets().put_secret(request.clone()).await }).await.map(drop)
    }

    /// Whether there was one is not known when the answer to the first call was lost.
    pub(crate) async fn delete_secret(&self, name: &SecretName) -> Result<bool, Error> {
        let request = v1::DeleteSecretRequest { name: name.to_string() };
        Ok(self.call(|| async { self.secrets().delete_secret(request.clone()).await }).await?.existed)
    }

    /// Not repeated: the daemon makes the token.
    pub(crate) async fn create_token(
        &self,
        terms: TokenTerms,
        life: Option<Duration>,
    ) -> Result<(TokenView, String), Error> {
        let made = self.access().create_token(terms_to_wire(&terms, life)).await;
        let v1::CreateTokenResponse { token, text } = made.map_err(|status| error_of(&status))?.into_inner();
        Ok((self.token(token)?, text))
    }

    pub(crate) async fn revoke_token(&self, id: TokenId) -> Result<TokenView, Error> {
        let request = v1::RevokeTokenRequest { id: id.to_string() };
        let answer = self.call(|| async { self.access().revoke_token(request.clone()).await }).await?;
        self.token(answer.token)
    }

    fn token(&self, message: Option<v1::Token>) -> Result<TokenView, Error> {
        let message = message.ok_or_else(|| self.malformed(&"the token is missing"))?;
        token_from_wire(message).map_err(|error| self.malformed(&error))
    }

    pub(crate) fn watch(&self, id: JobId) -> JobWatch {
        JobWatch::new(Box::new(follow::RemoteStates::new(self.clone(), id)))
    }

    pub(crate) fn watch_all(&self, from: Option<FeedCursor>) -> JobFeed {
        JobFeed::new(Box::new(follow::RemoteChanges::new(self.clone(), from)))
    }

    pub(crate) fn ends(&self, jobs: Vec<JobId>) -> JobEnds {
        JobEnds::new(Box::new(ends::RemoteEnds::new(self.clone(), jobs)))
    }

    pub(crate) fn logs(&self, id: JobId) -> JobLogs {
        JobLogs::new(Box::new(follow::RemoteOutput::new(self.clone(), id)))
    }

    fn job(&self, message: Option<v1::Job>) -> Result<Arc<Job>, Error> {
        let message = message.ok_or_else(|| self.malformed(&"the job is missing"))?;
        job_from_wire(message).map(Arc::new).map_err(|error| self.malformed(&error))
    }

    fn malformed(&self, why: &dyn std::fmt::Display) -> Error {
        let message = format!("the daemon at {} answers what this version cannot read: {why}", self.url());
        Error::Refused(Refused { code: Code::Internal as i32, field: None, message })
    }

    /// Makes a call that may be repeated, until the daemon answers or patience is at its end.
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

/// The waits between two calls to a daemon that is away.
#[derive(Debug)]
struct Patience {
    servers: Arc<Servers>,
    /// The daemon that was asked, by its number.
    asked: usize,
    clock: Arc<dyn Clock>,
    since: Duration,
    limit: Duration,
    next: Duration,
    said: bool,
}

impl Patience {
    fn new(client: &DaemonClient) -> Self {
        let clock = client.clock.clone();
        let servers = client.servers.clone();
        let asked = servers.current.load(Ordering::Relaxed);
        Self {
            servers,
            asked,
            since: clock.monotonic(),
            clock,
            limit: client.patience,
            next: AGAIN,
            said: false,
        }
    }

    /// Waits, if the daemon may come back. Cancel safe.
    async fn after(&mut self, status: Status) -> Result<(), Error> {
        // A status with a source was made here, of a connection that broke under the call: no daemon said it.
        let broke = !is_said(&status);
        let away = broke || status.code() == Code::Unavailable;
        let waited = self.clock.monotonic().saturating_sub(self.since);
        let over = waited >= self.limit;
        if over && broke {
            let (url, limit, cause) = (&self.servers.current().0, self.limit, root_cause(&status));
            let why = format!("the daemon at {url} has not answered for {limit:?}: {cause}");
            return Err(Error::Refused(Refused {
                code: Code::Unavailable as i32,
                field: None,
                message: why,
            }));
        }
        if !away || over {
            return Err(error_of(&status));
        }
        // Not for a restart, which is over sooner.
        if waited >= A_WHILE && !std::mem::replace(&mut self.said, true) {
            let (url, limit) = (&self.servers.current().0, self.limit);
            match error_of(&status) {
                Error::Refused(Refused { message, .. }) if !broke && !message.is_empty() => {
                    tracing::warn!("the daemon at {url} says: {message}; trying again for up to {limit:?}");
                }
                error if !broke => {
                    tracing::warn!("the daemon at {url} says: {error}; trying again for up to {limit:?}");
                }
                _ => tracing::warn!("the daemon at {url} does not answer: trying again for up to {limit:?}"),
            }
        }
        self.servers.pass_over(self.asked);
        self.asked = self.servers.current.load(Ordering::Relaxed);
        self.clock.sleep(self.next).await;
        self.next = (self.next * 2).min(AGAIN * 16);
        Ok(())
    }
}

/// Whether a daemon said it; otherwise it was made here, of a connection that broke.
fn is_said(status: &Status) -> bool {
    std::error::Error::source(status).is_none()
}

fn refuse(code: Code, message: String) -> Error {
    Error::Refused(Refused { code: code as i32, field: None, message })
}

fn endpoint(url: &str, tls: &TlsFiles) -> Result<Endpoint, Error> {
    let is_address = ["https://", "http://", "unix:"].iter().any(|scheme| url.starts_with(scheme));
    // One with a port that is no number would lead to the usual one.
    let has_port = |endpoint: &Endpoint| {
        let Some(authority) = endpoint.uri().authority() else { return true };
        let behind_host = authority.as_str().rsplit(']').next().unwrap_or_default();
        authority.port_u16().is_some() || !behind_host.contains(':')
    };
    let endpoint =
        Endpoint::from_shared(url.to_owned()).ok().filter(|endpoint| is_address && has_port(endpoint));
    let endpoint = endpoint.ok_or_else(|| {
        let why = format!(
            "`{url}` is no address of a daemon: write https://HOST:PORT, http://HOST:PORT or unix:PATH"
        );
        refuse(Code::InvalidArgument, why)
    })?;
    let endpoint = endpoint.connect_timeout(CONNECT).http2_keep_alive_interval(PING);
    let endpoint = endpoint.keep_alive_timeout(PING).tcp_nodelay(true);
    if !url.starts_with("https:") {
        return Ok(endpoint);
    }
    let wrong = |error: &dyn std::fmt::Display| refuse(Code::InvalidArgument, error.to_string());
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
    async fn an_address_has_a_port_that_there_is() {
        for url in ["http://h:1", "http://h", "http://[::1]", "http://[::1]:65535", "unix:/run/h"] {
            assert!(endpoint(url, &TlsFiles::default()).is_ok(), "{url}");
        }
        for url in
            ["http://h:99999", "http://h:x", "http://h:", "http://[::1]:65536", "h:1", "ftp://h:1", "unix"]
        {
            let error = endpoint(url, &TlsFiles::default()).unwrap_err();
            assert!(error.to_string().contains("is no address of a daemon"), "{url}: {error}");
        }
    }
}
