//! Tenants, roles, tokens and the audit, for every RPC of every proto.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use hodei_proto::v1;
use hodei_sdk::access::{Action, Caller, RefusalReason, RefusedParty, TokenTerms, Who};
use hodei_sdk::event::DomainEvent;
use hodei_sdk::grpc::{GrpcServer, Listener};
use hodei_sdk::id::{JobId, TokenId};
use hodei_sdk::job::TenantId;
use hodei_sdk::port::{ClockExt, FeedCursor};
use hodei_sdk::{
    ConnectOptions, Error, Hodei, JobHandle, JobSpec, JobStatus, Role, SecretValue, SystemClock,
};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

const OWN: &str = "the daemon's own token";
/// A marker in all data of tenant `default`.
const ALPHA: &str = "alpha";

/// A server with a platform of two tenants.
struct Served {
    hodei: Hodei,
    channel: Channel,
    url: String,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (hodei, stop) = (Hodei::local().await.unwrap(), CancellationToken::new());
        let served = GrpcServer::new(&hodei).token(OWN).serve(Listener::Tcp(listener), stop.clone());
        #[allow(clippy::disallowed_methods, reason = "the test owns the server")]
        let server = tokio::spawn(served);
        let channel = Endpoint::from_shared(url.clone()).unwrap().connect_lazy();
        Self { hodei, channel, url, stop, server }
    }

    async fn token(&self, tenant: &str, role: Role) -> String {
        let terms = TokenTerms { name: format!("{tenant} {role}"), tenant: TenantId::new(tenant), role };
        self.hodei.tokens().create(terms, None).await.unwrap().1
    }

    async fn connect(&self, token: &str) -> Result<Hodei, Error> {
        let options = ConnectOptions { token: Some(token.into()), ..ConnectOptions::new(&self.url) };
        Hodei::connect_with(options).await
    }

    async fn end(self) {
        self.hodei.shutdown_within(Duration::from_secs(1)).await;
        self.stop.cancel();
        SystemClock::default().timeout(Duration::from_secs(10), self.server).await.unwrap().unwrap().unwrap();
    }

    /// Returns the bytes that a call answers within a short time.
    async fn call(&self, path: &str, request: Bytes, token: Option<&str>) -> Result<Vec<u8>, Status> {
        let mut request = Request::new(request);
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::try_from(path).unwrap();
        let mut answers = grpc.server_streaming(request, path, Raw).await?.into_inner();
        let mut all = Vec::new();
        let clock = SystemClock::default();
        while let Ok(answer) = clock.timeout(Duration::from_millis(200), answers.message()).await {
            match answer? {
                Some(answer) => all.extend_from_slice(&answer),
                None => break,
            }
        }
        Ok(all)
    }
}

/// A codec that passes the bytes of messages through.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

fn bytes(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Returns a call of each RPC about one job of tenant `default`, with the role that it requires.
fn calls(job: JobId, worker: &str) -> BTreeMap<String, (Role, Bytes)> {
    let job_id = job.to_string();
    let worker_id = worker.to_owned();
    let spec = Some(v1::JobSpec {
        command: Some(v1::job_spec::Command::Shell("true".into())),
        ..v1::JobSpec::default()
    });
    let submit = v1::SubmitRequest { spec, ..v1::SubmitRequest::default() };
    let watched = vec![v1::JobCursor { job_id: job_id.clone(), after_version: 0 }];
    let (viewer, submitter, operator) = (Role::Viewer, Role::Submitter, Role::Operator);
    let of = |service: &str, all: Vec<(&str, Role, Bytes)>| {
        let path = |method: &str| format!("/hodei.v1.{service}/{method}");
        all.into_iter().map(|(method, role, bytes)| (path(method), (role, bytes))).collect::<Vec<_>>()
    };
    let jobs = vec![
        ("Submit", submitter, bytes(&submit)),
        ("SubmitBatch", submitter, bytes(&v1::SubmitBatchRequest { jobs: vec![submit] })),
        ("Get", viewer, bytes(&v1::GetRequest { job_id: job_id.clone() })),
        ("List", viewer, bytes(&v1::ListRequest::default())),
        (
            "GetArtifact",
            viewer,
            bytes(&v1::GetArtifactRequest { job_id: job_id.clone(), name: "out".into() }),
        ),
        ("Cancel", submitter, bytes(&v1::CancelRequest { job_id: job_id.clone() })),
        ("Retry", submitter, bytes(&v1::RetryRequest { job_id: job_id.clone(), force: true })),
        (
            "Watch",
            viewer,
            bytes(&v1::WatchRequest { cursor: Some(String::new()), ..v1::WatchRequest::default() }),
        ),
        ("ListEvents", viewer, bytes(&v1::ListEventsRequest::default())),
    ];
    let logs = vec![
        ("Subscribe", viewer, bytes(&v1::SubscribeRequest { job_id: job_id.clone(), from: None })),
        ("Get", viewer, bytes(&v1::GetLogsRequest { job_id: job_id.clone(), from: None })),
    ];
    let scheduler = vec![
        ("GetQueueStatus", viewer, bytes(&v1::GetQueueStatusRequest {})),
        (
            "GetSchedulingDecision",
            viewer,
            bytes(&v1::GetSchedulingDecisionRequest { job_id: job_id.clone() }),
        ),
        ("ListWorkers", viewer, bytes(&v1::ListWorkersRequest::default())),
        ("GetWorker", viewer, bytes(&v1::GetWorkerRequest { worker_id: worker_id.clone() })),
        ("DrainWorker", operator, bytes(&v1::DrainWorkerRequest { worker_id })),
    ];
    let mut all = of("JobExecutionService", jobs);
    all.extend(of("LogStreamService", logs));
    all.extend(of("SchedulerService", scheduler));
    all.extend(of("SecretService", secret_calls()));
    all.extend(of("AccessService", access_calls(job)));
    let mut all: BTreeMap<_, _> = all.into_iter().collect();
    // The same RPCs with other kinds of requests.
    let one = v1::WatchRequest { jobs: watched, ends_only: false, cursor: None };
    all.insert("/hodei.v1.JobExecutionService/Watch?one".into(), (viewer, bytes(&one)));
    let history = v1::ListEventsRequest { job_id, ..v1::ListEventsRequest::default() };
    all.insert("/hodei.v1.JobExecutionService/ListEvents?one".into(), (viewer, bytes(&history)));
    all
}

fn secret_calls() -> Vec<(&'static str, Role, Bytes)> {
    let secret = |name: &str| v1::DeleteSecretRequest { name: name.into() };
    let put = v1::PutSecretRequest { name: "own".into(), value: Bytes::from_static(b"a value of its own") };
    vec![
        ("PutSecret", Role::Operator, bytes(&put)),
        ("ListSecrets", Role::Submitter, bytes(&v1::ListSecretsRequest::default())),
        ("DeleteSecret", Role::Operator, bytes(&secret("alpha-secret"))),
    ]
}

fn access_calls(job: JobId) -> Vec<(&'static str, Role, Bytes)> {
    let token =
        v1::CreateTokenRequest { name: "x".into(), role: v1::Role::Viewer.into(), ..Default::default() };
    vec![
        ("CreateToken", Role::Admin, bytes(&token)),
        ("ListTokens", Role::Admin, bytes(&v1::ListTokensRequest::default())),
        (
            "RevokeToken",
            Role::Admin,
            bytes(&v1::RevokeTokenRequest { id: TokenId::from_uuid(job.as_uuid()).to_string() }),
        ),
    ]
}

fn path(name: &str) -> &str {
    name.split('?').next().unwrap()
}

/// Returns every method of every service, from reflection.
fn methods() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(hodei_proto::FILE_DESCRIPTORS).unwrap().file;
    let services = files.iter().flat_map(|file| &file.service);
    let methods = services.flat_map(|service| {
        let path = |method: &prost_types::MethodDescriptorProto| {
            format!("/hodei.v1.{}/{}", service.name(), method.name())
        };
        service.method.iter().map(path)
    });
    methods.collect()
}

/// Submits a job of tenant `default` that ends and one that waits for ever, each with the marker in every field.
async fn jobs_of_alpha(hodei: &Hodei) -> (JobHandle, String) {
    hodei
        .secrets()
        .put(&"alpha-secret".parse().unwrap(), SecretValue::new(b"alpha value".to_vec()).unwrap())
        .await
        .unwrap();
    let spec = JobSpec::shell("echo alpha output | tee out").name("alpha").label("team", "alpha");
    let job = hodei.submit(spec.output("out".parse().unwrap()).build().unwrap()).await.unwrap();
    let worker = job.wait().await.unwrap().worker().unwrap().to_string();
    // The second waits for the first: it is the head of a class of waiting jobs.
    let waits = || JobSpec::shell("sleep 60 # alpha").concurrency("alpha", 1).build().unwrap();
    let first = hodei.submit(waits()).await.unwrap();
    hodei.submit(waits()).await.unwrap();
    let clock = SystemClock::default();
    while first.get().await.unwrap().status() != JobStatus::Running {
        hodei_sdk::port::Clock::sleep(&clock, Duration::from_millis(10)).await;
    }
    (job, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_requires_a_token_and_hides_other_tenants() {
    let served = Served::start().await;
    let (job, worker) = jobs_of_alpha(&served.hodei).await;
    let calls = calls(job.id(), &worker);
    let known: BTreeSet<String> = calls.keys().map(|name| path(name).to_owned()).collect();
    let agents = ["Register", "WorkerStream", "Fetch", "Store", "Unregister"];
    let agents = agents.map(|name| format!("/hodei.v1.WorkerAgentService/{name}"));
    assert_eq!(
        known.union(&agents.clone().into()).cloned().collect::<BTreeSet<_>>(),
        methods(),
        "every RPC needs a line in `calls`"
    );
    let other = served.token("beta", Role::Admin).await;
    for (name, (_, request)) in &calls {
        for token in [None, Some("hodei_guess"), Some("")] {
            let refused = served.call(path(name), request.clone(), token).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{name} with {token:?}: {refused:?}");
        }
        let own = served.call(path(name), request.clone(), Some(OWN));
        if !["Cancel", "Retry", "Delete", "Drain", "Create", "List", "Put", "Revoke"]
            .iter()
            .any(|verb| name.contains(verb))
        {
            own.await.unwrap_or_else(|refused| panic!("{name} for its own tenant: {refused:?}"));
        }
        match served.call(path(name), request.clone(), Some(&other)).await {
            Ok(seen) => {
                for marker in [ALPHA, &job.id().to_string()] {
                    let shown = String::from_utf8_lossy(&seen);
                    assert!(!shown.contains(marker), "{name} shows {marker} to another tenant: {shown}");
                }
            }
            Err(refused) => {
                assert_eq!(refused.code(), Code::NotFound, "{name}: {refused:?}");
                assert!(!refused.message().contains(ALPHA), "{name}: {refused:?}");
            }
        }
    }
    for agent in agents {
        let refused = served.call(&agent, Bytes::new(), Some(OWN)).await.unwrap_err();
        assert!(
            matches!(refused.code(), Code::Unauthenticated | Code::FailedPrecondition),
            "{agent}: {refused:?}"
        );
    }
    // The calls of the other tenant changed nothing.
    assert!(!served.hodei.secrets().list().await.unwrap().is_empty());
    assert_eq!(job.get().await.unwrap().status(), JobStatus::Succeeded);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rpc_requires_its_role() {
    let served = Served::start().await;
    let (job, _) = jobs_of_alpha(&served.hodei).await;
    let tokens: Vec<(Role, String)> = {
        let mut tokens = Vec::new();
        for role in Role::ALL {
            tokens.push((role, served.token("default", role).await));
        }
        tokens
    };
    // A worker that does not exist, so that the real one stays.
    let calls = calls(job.id(), &job.id().to_string());
    for (name, (least, request)) in &calls {
        for (role, token) in &tokens {
            let denied = served.call(path(name), request.clone(), Some(token)).await.err();
            let denied = denied.filter(|status| status.code() == Code::PermissionDenied);
            assert_eq!(denied.is_some(), role < least, "{name} for a {role}: {denied:?}");
        }
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_valid_until_it_is_revoked() {
    let served = Served::start().await;
    let admin = served.connect(OWN).await.unwrap();
    let terms = TokenTerms { name: "ci".into(), tenant: TenantId::new("beta"), role: Role::Submitter };
    let (made, text) = admin.tokens().create(terms.clone(), Some(Duration::from_secs(3600))).await.unwrap();
    assert_eq!(made.terms, terms);
    let beta = served.connect(&text).await.unwrap();
    let job = beta.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    let ended = job.wait().await.unwrap();
    assert_eq!((ended.status(), ended.tenant().as_str()), (JobStatus::Succeeded, "beta"));
    assert!(
        matches!(admin.jobs().get(job.id()).await, Err(Error::NotFound(_))),
        "the admin of another tenant does not see it"
    );
    let seen = served.hodei.with_caller(Caller { tenant: TenantId::new("beta"), ..Caller::default() });
    assert_eq!(seen.jobs().get(job.id()).await.unwrap().id(), job.id());
    let listed = admin.tokens().list().await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&made));
    let revoked = admin.tokens().revoke(made.id).await.unwrap();
    assert!(revoked.revoked_at.is_some());
    let refused = beta.jobs().get(job.id()).await.unwrap_err();
    assert!(refused.to_string().contains("the token was revoked"), "{refused}");
    assert_eq!(admin.tokens().revoke(made.id).await.unwrap(), revoked, "a second revoke changes nothing");
    let unknown = TokenId::from_uuid(job.id().as_uuid());
    assert!(matches!(admin.tokens().revoke(unknown).await, Err(Error::Refused(_) | Error::NoToken(_))));
    for (name, tenant) in [("", "x"), ("x", "../y")] {
        let terms = TokenTerms { name: name.into(), tenant: TenantId::new(tenant), role: Role::Viewer };
        let refused = admin.tokens().create(terms, None).await.unwrap_err();
        assert!(refused.field().is_some(), "{refused}");
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_end_when_their_token_is_revoked() {
    let served = Served::start().await;
    let text = served.token("default", Role::Viewer).await;
    let viewer = served.connect(&text).await.unwrap();
    let job = served.hodei.submit(JobSpec::command(["sleep", "60"]).build().unwrap()).await.unwrap();
    let (mut logs, mut feed) = (viewer.jobs().logs(job.id()), viewer.jobs().watch_all(None));
    feed.next().await.unwrap();
    let id = served.hodei.tokens().list().await.unwrap()[0].id;
    served.hodei.tokens().revoke(id).await.unwrap();
    let clock = SystemClock::default();
    let ends = async {
        let logs = logs.next().await.unwrap_err();
        let mut changes = feed.next().await;
        while changes.is_ok() {
            changes = feed.next().await;
        }
        [logs, changes.unwrap_err()]
    };
    for refused in clock.timeout(Duration::from_secs(4), ends).await.unwrap() {
        assert!(refused.to_string().contains("the token was revoked"), "{refused}");
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_refused_and_its_open_streams_end() {
    let served = Served::start().await;
    let terms = TokenTerms { name: "short".into(), tenant: TenantId::default(), role: Role::Viewer };
    let life = Some(Duration::from_secs(3));
    let (_, text) = served.hodei.tokens().create(terms, life).await.unwrap();
    let viewer = served.connect(&text).await.unwrap();
    let job = served.hodei.submit(JobSpec::command(["sleep", "60"]).build().unwrap()).await.unwrap();
    let clock = SystemClock::default();
    let ended = clock.timeout(Duration::from_secs(8), viewer.jobs().logs(job.id()).next()).await.unwrap();
    assert!(ended.unwrap_err().to_string().contains("expired"));
    let refused = viewer.jobs().get(job.id()).await.unwrap_err();
    assert!(refused.to_string().contains("expired"), "{refused}");
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_audited_for_admins_only() {
    let served = Served::start().await;
    let viewer = served.connect(&served.token("default", Role::Viewer).await).await.unwrap();
    let denied = viewer.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap_err();
    assert!(denied.to_string().contains("the role viewer may not submit jobs"), "{denied}");
    for _ in 0..3 {
        served.connect("hodei_guess").await.unwrap_err();
    }
    let by = served.hodei.tokens().list().await.unwrap()[0].id;
    let refused = async |hodei: &Hodei| {
        let events = hodei.events().read(&FeedCursor::default(), 1000).await.unwrap().events;
        let refused = events.into_iter().filter_map(|envelope| match envelope.event {
            DomainEvent::AccessRefused { party, reason, times } => Some((party, reason, times)),
            _ => None,
        });
        refused.collect::<Vec<_>>()
    };
    let (clock, mut noted) = (SystemClock::default(), Vec::new());
    let all = async {
        while noted.iter().map(|(_, _, times)| times).sum::<u64>() < 4 {
            hodei_sdk::port::Clock::sleep(&clock, Duration::from_millis(20)).await;
            noted = refused(&served.hodei).await;
        }
    };
    clock.timeout(Duration::from_secs(10), all).await.unwrap();
    let party = RefusedParty::Client { who: Who::Token(by), tenant: TenantId::default() };
    assert!(noted.contains(&(party, RefusalReason::Role(Action::SubmitJobs), 1)), "{noted:?}");
    let service = "hodei.v1.JobExecutionService".to_owned();
    let guesses = noted.iter().filter(|(party, reason, _)| {
        *party == RefusedParty::Stranger { service: service.clone() }
            && *reason == RefusalReason::UnknownToken
    });
    assert_eq!(guesses.map(|(_, _, times)| times).sum::<u64>(), 3, "{noted:?}");
    assert_eq!(refused(&viewer).await, [], "only admins see the audit");
    served.end().await;
}

#[tokio::test]
async fn a_program_may_act_for_its_own_tenants() {
    let hodei = Hodei::local().await.unwrap();
    let viewer = Caller { role: Role::Viewer, tenant: TenantId::new("beta"), who: Who::Program };
    let viewer = hodei.with_caller(viewer);
    let denied = viewer.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap_err();
    assert!(matches!(&denied, Error::Denied(denied) if denied.action == Action::SubmitJobs), "{denied}");
    let job = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    assert!(matches!(viewer.jobs().get(job.id()).await, Err(Error::NotFound(_))));
    assert_eq!(viewer.events().read(&FeedCursor::default(), 100).await.unwrap().events, []);
    assert!(!hodei.events().read(&FeedCursor::default(), 100).await.unwrap().events.is_empty());
    hodei.shutdown_within(Duration::ZERO).await;
}

#[tokio::test]
async fn a_refusal_is_audited_although_the_platform_stops_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().display());
    let hodei = Hodei::open(&url).await.unwrap();
    let viewer = hodei.with_caller(Caller { role: Role::Viewer, ..Caller::default() });
    viewer.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap_err();
    drop(viewer);
    hodei.shutdown().await;
    let hodei = Hodei::open(&url).await.unwrap();
    let events = hodei.events().read(&FeedCursor::default(), 1000).await.unwrap().events;
    let is_it = |event: &DomainEvent| {
        matches!(event, DomainEvent::AccessRefused { reason: RefusalReason::Role(Action::SubmitJobs), .. })
    };
    assert_eq!(events.iter().filter(|envelope| is_it(&envelope.event)).count(), 1);
    hodei.shutdown().await;
}
