//! The worker protocol, message by message: the test acts as the agents of a server in this process.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hodei_agent::{ArtifactChannel, ConnectError, Connection, Connector, GrpcConnector, TransferError};
use hodei_proto::v1::agent_message::Body as Says;
use hodei_proto::v1::server_message::Body as Hears;
use hodei_proto::v1::worker_agent_service_client::WorkerAgentServiceClient;
use hodei_proto::{convert, v1};
use hodei_sdk::access::{RefusalReason, RefusedParty};
use hodei_sdk::artifact::{Artifact, Digest};
use hodei_sdk::event::DomainEvent;
use hodei_sdk::grpc::{GrpcServer, Listener};
use hodei_sdk::id::{AttemptId, OrderId, StoreId, WorkerId};
use hodei_sdk::job::{AttemptReport, Labels};
use hodei_sdk::port::{
    Clock, ClockExt, FeedCursor, LogBody, LogStream, ProvidedWorker, ProviderError, WorkerProvider,
};
use hodei_sdk::providers::ProviderProfile;
use hodei_sdk::testing::{ChaosLogStore, ChaosStore, Fault, Faults};
use hodei_sdk::worker::{Lifetime, WorkerCapacity, WorkerOrder, WorkerStatus};
use hodei_sdk::{
    CauseKind, FailureCause, Hodei, HodeiBuilder, Job, JobSpec, JobSpecBuilder, JobStatus, LogItem,
    ManualClock, MemoryLogStore, MemoryStore, Outcome, ProviderContext, RetryPolicy, Settings, SystemClock,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use uuid::Uuid;

/// A provider that passes its orders to the test.
#[derive(Debug)]
struct ByHand {
    context: ProviderContext,
    ordered: mpsc::Sender<(WorkerId, String)>,
    made: Mutex<BTreeMap<WorkerId, OrderId>>,
    /// A store that fails from the first order on.
    fails: Mutex<Option<Arc<Switch>>>,
}

#[async_trait]
impl WorkerProvider for ByHand {
    fn profile(&self) -> ProviderProfile {
        ProviderProfile {
            name: "by hand".into(),
            kind: "by hand".into(),
            runs_images: false,
            capacity: WorkerCapacity { prefetch: 2, ..WorkerCapacity::slots(2) },
            labels: Labels::new(),
            max_workers: 2,
            lifetime: Lifetime::default(),
            secrets: vec![hodei_sdk::secret::SecretPattern::any()],
            requires_limits: false,
        }
    }

    async fn create(&self, order: &WorkerOrder) -> Result<String, ProviderError> {
        if let Some(fails) = self.fails.lock().unwrap().take() {
            fails.set(Switch::FAILS);
        }
        if !self.made.lock().unwrap().contains_key(&order.worker) {
            let token = self.context.door().issue_token(order.worker).await;
            let token = token.map_err(|error| ProviderError::Unavailable(error.to_string()))?;
            self.made.lock().unwrap().insert(order.worker, order.id);
            self.ordered.send((order.worker, token)).await.unwrap();
        }
        Ok(order.id.to_string())
    }

    async fn destroy(&self, worker: WorkerId, _: Duration) -> Result<(), ProviderError> {
        self.made.lock().unwrap().remove(&worker);
        Ok(())
    }

    async fn list(&self, _: StoreId) -> Result<Vec<ProvidedWorker>, ProviderError> {
        let made = self.made.lock().unwrap();
        Ok(made
            .iter()
            .map(|(worker, order)| ProvidedWorker { worker: *worker, order: *order, exited: None })
            .collect())
    }
}

/// A served platform.
struct Platform {
    hodei: Hodei,
    url: String,
    orders: mpsc::Receiver<(WorkerId, String)>,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Platform {
    async fn start() -> Self {
        Self::over(Hodei::builder().settings(Settings::quick())).await
    }

    async fn over(builder: HodeiBuilder) -> Self {
        Self::failing(builder, None).await
    }

    async fn failing(builder: HodeiBuilder, fails: Option<Arc<Switch>>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (ordered, orders) = mpsc::channel(8);
        let make =
            move |context| ByHand { context, ordered, made: Mutex::default(), fails: Mutex::new(fails) };
        let hodei = builder.provider(make).start().await.unwrap();
        let stop = CancellationToken::new();
        let served = GrpcServer::new(&hodei).serve(Listener::Tcp(listener), stop.clone());
        #[allow(clippy::disallowed_methods, reason = "the test owns the server")]
        let server = tokio::spawn(served);
        Self { hodei, url, orders, stop, server }
    }

    async fn submit(&self, spec: JobSpecBuilder) -> hodei_sdk::JobHandle {
        self.hodei.submit(spec.build().unwrap()).await.unwrap()
    }

    /// Registers an agent for the next worker that the platform orders.
    async fn hand(&mut self) -> Hand {
        self.hand_of(1).await
    }

    /// Like [`hand`](Self::hand), for an agent with this version of the protocol.
    async fn hand_of(&mut self, version: u32) -> Hand {
        let (worker, token) = within(self.orders.recv()).await.unwrap();
        let connector = GrpcConnector::new(vec![self.url.clone()], token.clone(), Uuid::from_u128(1));
        let connection = within(connector.connect()).await.unwrap();
        let mut hand = Hand { connector, connection, worker, token, renewals: 0, version };
        hand.hello(&[]).await;
        hand
    }

    async fn job(&self, id: hodei_sdk::id::JobId) -> Arc<Job> {
        self.hodei.jobs().get(id).await.unwrap()
    }

    async fn events(&self, job: &Job) -> Vec<&'static str> {
        self.hodei
            .jobs()
            .history(job.id())
            .await
            .unwrap()
            .iter()
            .map(|envelope| envelope.event.name())
            .collect()
    }

    async fn end(self) {
        self.hodei.shutdown_within(Duration::ZERO).await;
        self.stop.cancel();
        within(self.server).await.unwrap().unwrap();
    }
}

/// An agent that the test controls.
struct Hand {
    connector: GrpcConnector,
    connection: Connection,
    worker: WorkerId,
    token: String,
    renewals: u64,
    version: u32,
}

impl Hand {
    async fn say(&self, body: Says) {
        within(self.connection.outgoing.send(v1::AgentMessage { body: Some(body) })).await.unwrap();
    }

    async fn hear(&mut self) -> Option<Hears> {
        within(self.connection.incoming.recv()).await.map(|message| message.body.unwrap())
    }

    async fn hello(&mut self, held: &[AttemptId]) {
        let held = held.iter().map(|attempt| v1::HeldAttempt {
            attempt: Some(convert::attempt_ref(*attempt)),
            log_sequence: 0,
            started: true,
        });
        let (version, held) = (self.version, held.collect());
        let hello = v1::Hello { version, slots: 2, prefetch: 2, held, ..v1::Hello::default() };
        self.say(Says::Hello(hello)).await;
        assert!(matches!(self.hear().await, Some(Hears::Welcome(_))));
    }

    /// Breaks the stream and opens another, and reports the attempts that it holds.
    async fn again(&mut self, held: &[AttemptId]) {
        self.connection = within(self.connector.connect()).await.unwrap();
        self.hello(held).await;
    }

    /// Waits for the next assignments.
    async fn runs(&mut self) -> Vec<AttemptId> {
        loop {
            if let Hears::RunJobs(run) = self.hear().await.expect("the stream ended") {
                let attempts = run.assignments.iter();
                return attempts.map(|a| convert::attempt_id(a.attempt.as_ref()).unwrap()).collect();
            }
        }
    }

    async fn run(&mut self) -> AttemptId {
        let runs = self.runs().await;
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs[0]
    }

    async fn started(&self, attempt: AttemptId) {
        let attempt = Some(convert::attempt_ref(attempt));
        self.say(Says::JobStarted(v1::JobStarted { attempt, started_at_micros: 1 })).await;
    }

    async fn output(&self, attempt: AttemptId, first_sequence: u64, text: &[u8]) {
        let chunk = v1::LogChunk {
            stream: convert::stream_to_wire(LogStream::Stdout).into(),
            at_micros: 1,
            data: bytes::Bytes::copy_from_slice(text),
        };
        let attempt = Some(convert::attempt_ref(attempt));
        self.say(Says::LogBatch(v1::LogBatch { attempt, first_sequence, chunks: vec![chunk] })).await;
    }

    async fn finished(&self, attempt: AttemptId, outcome: Outcome, log_end: u64) {
        let report = report(outcome, log_end);
        self.say(Says::JobFinished(convert::report_to_wire(attempt, &report))).await;
    }

    /// Sends heartbeats until the condition holds.
    async fn beat_until<F: Future<Output = bool>>(&mut self, mut done: impl FnMut() -> F) {
        let clock = SystemClock::default();
        for _ in 0..300 {
            if done().await {
                return;
            }
            self.renewals += 1;
            self.say(Says::Heartbeat(v1::Heartbeat { renewals: self.renewals, metrics: None })).await;
            clock.sleep(Duration::from_millis(100)).await;
        }
        panic!("the condition did not become true");
    }

    async fn acknowledged(&mut self) -> AttemptId {
        loop {
            if let Hears::ResultAck(ack) = self.hear().await.expect("the stream ended") {
                return convert::attempt_id(ack.attempts.first()).unwrap();
            }
        }
    }

    async fn fenced(&mut self) -> AttemptId {
        loop {
            if let Hears::Fenced(fenced) = self.hear().await.expect("the stream ended") {
                return convert::attempt_id(fenced.attempts.first()).unwrap();
            }
        }
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    let limit = SystemClock::default().sleep(Duration::from_secs(30));
    tokio::select! { biased; done = future => done, () = limit => panic!("no answer within 30 s") }
}

async fn text(hodei: &Hodei, id: hodei_sdk::id::JobId) -> String {
    let (mut logs, mut text) = (hodei.jobs().logs(id).stored(), Vec::new());
    while let Some(item) = within(logs.next()).await.unwrap() {
        if let LogItem::Record { record, .. } = item
            && let LogBody::Chunk { bytes, .. } = record.body
        {
            text.extend_from_slice(&bytes);
        }
    }
    String::from_utf8(text).unwrap()
}

fn sleeper() -> JobSpecBuilder {
    JobSpec::command(["sleep", "60"])
}

#[tokio::test]
async fn a_repeated_result_counts_once_and_is_acknowledged_each_time() {
    let mut platform = Platform::start().await;
    let job = platform.submit(sleeper()).await;
    let mut hand = platform.hand().await;
    let attempt = hand.run().await;
    hand.output(attempt, 0, b"once\n").await;
    hand.finished(attempt, Outcome::Succeeded, 1).await;
    assert_eq!(hand.acknowledged().await, attempt);
    hand.finished(attempt, Outcome::Failed(FailureCause::Exit(1)), 1).await;
    assert_eq!(hand.acknowledged().await, attempt);
    // The acknowledgement is lost with the stream, so the agent repeats everything.
    hand.again(&[attempt]).await;
    hand.output(attempt, 0, b"once\n").await;
    hand.finished(attempt, Outcome::Succeeded, 1).await;
    let heard = hand.hear().await;
    assert!(matches!(&heard, Some(Hears::Fenced(_))), "the attempt that it holds has ended: {heard:?}");
    let ended = within(job.wait()).await.unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
    assert_eq!(text(&platform.hodei, job.id()).await, "once\n");
    let finished = platform.events(&ended).await;
    assert_eq!(finished.iter().filter(|name| **name == "JobSucceeded").count(), 1, "{finished:?}");
    platform.end().await;
}

#[tokio::test]
async fn messages_out_of_order_end_a_job_once() {
    let mut platform = Platform::start().await;
    let job = platform.submit(sleeper()).await;
    let mut hand = platform.hand().await;
    let attempt = hand.run().await;
    hand.output(attempt, 0, b"a").await;
    hand.output(attempt, 2, b"c").await;
    hand.output(attempt, 1, b"b").await;
    hand.finished(attempt, Outcome::Succeeded, 3).await;
    hand.started(attempt).await;
    hand.acknowledged().await;
    let ended = within(job.wait()).await.unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
    assert_eq!(text(&platform.hodei, job.id()).await, "ac", "late output is a gap");
    platform.end().await;
}

#[tokio::test]
async fn a_lost_assignment_is_resent_and_a_forgotten_attempt_is_replaced() {
    let mut platform = Platform::start().await;
    let job = platform.submit(sleeper()).await;
    let mut hand = platform.hand().await;
    let first = hand.run().await;
    hand.again(&[]).await;
    assert_eq!(hand.run().await, first, "it has not started: the same attempt");
    hand.started(first).await;
    hand.beat_until(|| async { platform.job(job.id()).await.status() == JobStatus::Running }).await;
    hand.again(&[]).await;
    let second = hand.run().await;
    assert_eq!((second.job, second.number), (first.job, 2), "no agent would report the first attempt");
    hand.finished(first, Outcome::Succeeded, 0).await;
    assert_eq!(hand.fenced().await, first);
    hand.finished(second, Outcome::Cancelled, 0).await;
    platform.end().await;
}

#[tokio::test]
async fn a_job_sent_to_a_leaving_agent_starts_elsewhere_without_a_charge() {
    let mut platform = Platform::start().await;
    let done = platform.submit(sleeper()).await;
    let mut hand = platform.hand().await;
    let attempt = hand.run().await;
    hand.finished(attempt, Outcome::Succeeded, 0).await;
    within(done.wait()).await.unwrap();
    // The assignment is in transit while the agent leaves; the job may run at most once.
    let job = platform.submit(sleeper().at_most_once()).await;
    let crossing = hand.run().await;
    hand.say(Says::Draining(v1::Draining { empty: true })).await;
    assert!(matches!(within(hand.connection.incoming.recv()).await, None | Some(_)));
    let mut other = platform.hand().await;
    let again = other.run().await;
    assert_eq!((again.job, again.number), (crossing.job, 2));
    other.finished(again, Outcome::Succeeded, 0).await;
    let ended = within(job.wait()).await.unwrap();
    assert_eq!(ended.status(), JobStatus::Succeeded, "{:?}", platform.events(&ended).await);
    platform.end().await;
}

#[tokio::test]
async fn a_report_of_a_foreign_worker_closes_no_log() {
    let mut platform = Platform::start().await;
    let job = platform.submit(sleeper()).await;
    let mut owner = platform.hand().await;
    let attempt = owner.run().await;
    owner.started(attempt).await;
    owner.output(attempt, 0, b"mine ").await;
    // Another worker, for a job that needs one.
    let _crowd = (platform.submit(sleeper()).await, platform.submit(sleeper()).await);
    let _more = (platform.submit(sleeper()).await, platform.submit(sleeper()).await);
    let mut stranger = platform.hand().await;
    stranger.output(attempt, 1, b"a lie ").await;
    assert_eq!(stranger.fenced().await, attempt);
    stranger.again(&[]).await;
    stranger.finished(attempt, Outcome::Succeeded, 9).await;
    assert_eq!(stranger.fenced().await, attempt);
    owner.output(attempt, 1, b"too").await;
    owner.finished(attempt, Outcome::Succeeded, 2).await;
    owner.acknowledged().await;
    within(job.wait()).await.unwrap();
    assert_eq!(text(&platform.hodei, job.id()).await, "mine too");
    platform.end().await;
}

#[tokio::test]
async fn extreme_numbers_do_no_harm() {
    let mut platform = Platform::start().await;
    let job = platform.submit(sleeper()).await;
    let mut hand = platform.hand().await;
    let attempt = hand.run().await;
    hand.output(attempt, u64::MAX, b"far").await;
    hand.output(AttemptId { number: u32::MAX, ..attempt }, 0, b"later").await;
    assert_eq!(hand.fenced().await.number, u32::MAX);
    let mut logs = platform.hodei.jobs().logs(job.id()).stored().starting_at(u32::MAX, u64::MAX);
    assert_eq!(within(logs.next()).await.unwrap(), None);
    hand.finished(attempt, Outcome::Succeeded, u64::MAX).await;
    let ended = within(job.wait()).await.unwrap();
    assert_eq!(ended.status(), JobStatus::Succeeded);
    let mut logs = platform.hodei.jobs().logs(job.id()).stored().starting_at(u32::MAX, u64::MAX);
    assert_eq!(within(logs.next()).await.unwrap(), None);
    platform.end().await;
}

/// The current failure of a store.
#[derive(Debug, Default)]
struct Switch(AtomicU8);

impl Switch {
    const WORKS: u8 = 0;
    const FAILS: u8 = 1;
    const BREAKS: u8 = 2;

    fn set(&self, state: u8) {
        self.0.store(state, Ordering::Relaxed);
    }
}

impl Faults for Switch {
    fn next(&self, _: &'static str) -> Fault {
        match self.0.load(Ordering::Relaxed) {
            Self::WORKS => Fault::None,
            Self::FAILS => Fault::Fails,
            _ => Fault::Breaks,
        }
    }
}

fn switched() -> (Arc<Switch>, HodeiBuilder) {
    let switch = Arc::new(Switch::default());
    let logs = ChaosLogStore::new(
        Arc::new(MemoryLogStore::default()),
        Arc::new(SystemClock::default()),
        switch.clone(),
    );
    (switch, Hodei::builder().settings(Settings::quick()).log_store(Arc::new(logs)))
}

#[tokio::test]
async fn a_worker_whose_output_cannot_be_stored_stays_alive() {
    let (switch, builder) = switched();
    let mut platform = Platform::over(builder).await;
    let job = platform.submit(sleeper()).await;
    let mut hand = platform.hand().await;
    let attempt = hand.run().await;
    hand.started(attempt).await;
    switch.set(Switch::FAILS);
    // The maximum that an agent may have in transit.
    for number in 0..1024 {
        hand.output(attempt, number, &[b'x'; 8 << 10]).await;
    }
    let clock = SystemClock::default();
    let until = clock.monotonic() + Settings::quick().lease * 3;
    hand.beat_until(|| async { clock.monotonic() > until }).await;
    let worker = platform.hodei.workers().get(hand.worker).await.unwrap().unwrap();
    assert_eq!(worker.status, WorkerStatus::Busy);
    switch.set(Switch::WORKS);
    hand.finished(attempt, Outcome::Succeeded, 1024).await;
    assert_eq!(hand.acknowledged().await, attempt);
    let ended = within(job.wait()).await.unwrap();
    assert_eq!((ended.attempt(), text(&platform.hodei, job.id()).await.len()), (1, 8 << 20));
    platform.end().await;
}

#[tokio::test]
async fn an_attempt_with_permanently_refused_output_is_lost_at_once() {
    let (switch, builder) = switched();
    let mut platform = Platform::over(builder).await;
    let job = platform.submit(sleeper()).await;
    let mut hand = platform.hand().await;
    let attempt = hand.run().await;
    hand.started(attempt).await;
    switch.set(Switch::BREAKS);
    hand.output(attempt, 0, b"lost").await;
    assert_eq!(hand.fenced().await, attempt);
    switch.set(Switch::WORKS);
    hand.beat_until(|| async { platform.job(job.id()).await.attempt() == 2 }).await;
    let second = hand.run().await;
    assert_eq!(second.number, 2);
    hand.finished(second, Outcome::Succeeded, 0).await;
    assert_eq!(within(job.wait()).await.unwrap().status(), JobStatus::Succeeded);
    platform.end().await;
}

#[tokio::test]
async fn a_worker_is_created_once_the_store_is_available_again() {
    let (switch, clock) = (Arc::new(Switch::default()), Arc::new(SystemClock::default()));
    let store =
        ChaosStore::new(Arc::new(MemoryStore::new(Uuid::from_u128(1))), clock.clone(), switch.clone());
    let mut settings = Settings::quick();
    settings.provision_timeout = Duration::from_secs(60);
    let builder = Hodei::builder().settings(settings).store(Arc::new(store));
    let mut platform = Platform::failing(builder, Some(switch.clone())).await;
    let job = platform.submit(sleeper()).await;
    // Longer than all retries to create the worker and to store the failure.
    clock.sleep(Duration::from_secs(3)).await;
    assert!(platform.orders.try_recv().is_err(), "the store is unavailable");
    switch.set(Switch::WORKS);
    let mut hand = platform.hand().await;
    let attempt = hand.run().await;
    hand.finished(attempt, Outcome::Succeeded, 0).await;
    assert_eq!(within(job.wait()).await.unwrap().attempt(), 1);
    platform.end().await;
}

#[tokio::test]
async fn a_token_is_valid_for_one_agent_and_unregister_ends_its_worker() {
    let mut platform = Platform::start().await;
    let job = platform.submit(sleeper().at_most_once()).await;
    let mut hand = platform.hand().await;
    let attempt = hand.run().await;
    hand.started(attempt).await;
    let endpoint = tonic::transport::Endpoint::from_shared(platform.url.clone()).unwrap();
    let mut client = WorkerAgentServiceClient::new(endpoint.connect().await.unwrap());
    let register = |token: &str, nonce: &[u8], version| v1::RegisterRequest {
        token: token.to_owned(),
        nonce: bytes::Bytes::copy_from_slice(nonce),
        version,
    };
    let same = client.register(register(&hand.token, Uuid::from_u128(1).as_bytes(), 1)).await.unwrap();
    assert_eq!(same.into_inner().worker_id, hand.worker.to_string(), "the same agent may repeat the call");
    let cases = [
        (register(&hand.token, Uuid::from_u128(2).as_bytes(), 1), Code::PermissionDenied),
        (register("nonsense", Uuid::from_u128(2).as_bytes(), 1), Code::Unauthenticated),
        (register(&hand.token, b"short", 1), Code::InvalidArgument),
        (register(&hand.token, Uuid::from_u128(1).as_bytes(), 9), Code::FailedPrecondition),
    ];
    for (request, code) in cases {
        assert_eq!(client.register(request.clone()).await.unwrap_err().code(), code, "{request:?}");
    }
    assert_eq!(client.unregister(v1::UnregisterRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
    within(hand.connector.leave()).await.unwrap();
    let ended = within(job.wait()).await.unwrap();
    let cause = ended.ending().and_then(|ending| match &ending.outcome {
        Outcome::Failed(cause) => Some(cause.kind()),
        _ => None,
    });
    assert_eq!(cause, Some(CauseKind::Lost), "its attempt is lost");
    let refused = within(hand.connector.connect()).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Refused(_)), "{refused}");
    platform.end().await;
}

/// Waits until the audit has a refusal.
async fn refused(platform: &Platform, reason: RefusalReason, party: &RefusedParty) {
    let clock = SystemClock::default();
    let look = async {
        loop {
            let page = platform.hodei.events().read(&FeedCursor::default(), 1000).await.unwrap();
            let is_it = |event: &DomainEvent| {
                matches!(event, DomainEvent::AccessRefused { party: who, reason: why, .. }
                    if (who, *why) == (party, reason))
            };
            if page.events.iter().any(|envelope| is_it(&envelope.event)) {
                return;
            }
            clock.sleep(Duration::from_millis(20)).await;
        }
    };
    clock
        .timeout(Duration::from_secs(10), look)
        .await
        .unwrap_or_else(|_| panic!("{reason:?} of {party:?} is not in the audit"))
}

#[tokio::test]
async fn forbidden_calls_of_agents_are_audited() {
    // The agents of this test send no heartbeats.
    let mut settings = Settings::quick();
    settings.lease = Duration::from_secs(60);
    let mut platform = Platform::over(Hodei::builder().settings(settings)).await;
    let job = platform.submit(sleeper()).await;
    let mut owner = platform.hand().await;
    let attempt = owner.run().await;
    owner.started(attempt).await;
    let _crowd = (platform.submit(sleeper()).await, platform.submit(sleeper()).await);
    let _more = (platform.submit(sleeper()).await, platform.submit(sleeper()).await);
    let mut stranger = platform.hand().await;
    stranger.finished(attempt, Outcome::Succeeded, 0).await;
    assert_eq!(stranger.fenced().await, attempt);
    let party = RefusedParty::Agent { worker: Some(stranger.worker), attempt: Some(attempt) };
    refused(&platform, RefusalReason::ForeignAttempt, &party).await;

    let endpoint = tonic::transport::Endpoint::from_shared(platform.url.clone()).unwrap();
    let mut client = WorkerAgentServiceClient::new(endpoint.connect().await.unwrap());
    let nonce = bytes::Bytes::copy_from_slice(Uuid::from_u128(77).as_bytes());
    let mut register = async |token: String| {
        client.register(v1::RegisterRequest { token, nonce: nonce.clone(), version: 2 }).await.unwrap_err()
    };
    register(owner.token.clone()).await;
    let party = RefusedParty::Agent { worker: Some(owner.worker), attempt: None };
    refused(&platform, RefusalReason::UsedToken, &party).await;
    // The id of no worker: an invented id is audited without a worker.
    register(format!("{}.{}", Uuid::from_u128(5), "5".repeat(64))).await;
    let unknown = RefusedParty::Agent { worker: None, attempt: None };
    refused(&platform, RefusalReason::UnknownToken, &unknown).await;
    // The id of a worker with a wrong secret.
    register(format!("{}.{}", owner.worker, "5".repeat(64))).await;
    refused(&platform, RefusalReason::UnknownToken, &party).await;
    // An agent that ignores the size limit.
    let nonce = bytes::Bytes::copy_from_slice(Uuid::from_u128(1).as_bytes());
    let registered = v1::RegisterRequest { token: owner.token.clone(), nonce, version: 2 };
    let credential = client.register(registered).await.unwrap().into_inner().credential;
    let chunk =
        v1::LogChunk { data: vec![b'x'; hodei_proto::WORKER_MESSAGE + 1].into(), ..v1::LogChunk::default() };
    let batch = v1::LogBatch { attempt: None, first_sequence: 0, chunks: vec![chunk] };
    let message = v1::AgentMessage { body: Some(v1::agent_message::Body::LogBatch(batch)) };
    let mut request = tonic::Request::new(tokio_stream::iter([message]));
    request.metadata_mut().insert("authorization", format!("Bearer {credential}").parse().unwrap());
    let mut client = client.max_encoding_message_size(usize::MAX);
    let mut answers = client.worker_stream(request).await.unwrap().into_inner();
    assert!(!matches!(within(answers.message()).await, Ok(Some(_))));
    refused(&platform, RefusalReason::TooLarge, &party).await;
    let party = RefusedParty::Agent { worker: Some(stranger.worker), attempt: None };
    within(stranger.connector.leave()).await.unwrap();
    let gone = async { while within(stranger.connector.connect()).await.is_ok() {} };
    within(gone).await;
    refused(&platform, RefusalReason::GoneWorker, &party).await;
    // None of these calls affects the owner of the attempt.
    owner.finished(attempt, Outcome::Succeeded, 0).await;
    assert_eq!(owner.acknowledged().await, attempt);
    assert_eq!(within(job.wait()).await.unwrap().status(), JobStatus::Succeeded);
    platform.end().await;
}

#[tokio::test]
async fn a_bootstrap_token_is_valid_for_five_minutes() {
    let clock = Arc::new(ManualClock::default());
    let mut settings = Settings::quick();
    settings.provision_timeout = Duration::from_secs(3600);
    let mut platform = Platform::over(Hodei::builder().settings(settings).clock(clock.clone())).await;
    platform.submit(sleeper()).await;
    let (worker, token) = within(platform.orders.recv()).await.unwrap();
    clock.advance(Duration::from_secs(301));
    let endpoint = tonic::transport::Endpoint::from_shared(platform.url.clone()).unwrap();
    let mut client = WorkerAgentServiceClient::new(endpoint.connect().await.unwrap());
    let nonce = bytes::Bytes::copy_from_slice(Uuid::from_u128(1).as_bytes());
    let late = client.register(v1::RegisterRequest { token, nonce, version: 2 }).await.unwrap_err();
    assert_eq!((late.code(), late.message()), (Code::Unauthenticated, "the bootstrap token has expired"));
    clock.advance(Duration::from_secs(2));
    let party = RefusedParty::Agent { worker: Some(worker), attempt: None };
    refused(&platform, RefusalReason::ExpiredToken, &party).await;
    platform.stop.cancel();
}

#[tokio::test]
async fn an_oversized_message_ends_only_its_stream() {
    let mut platform = Platform::start().await;
    let job = platform.submit(sleeper()).await;
    let mut hand = platform.hand().await;
    let attempt = hand.run().await;
    hand.output(attempt, 0, &vec![b'x'; hodei_proto::WORKER_MESSAGE + 1]).await;
    while hand.hear().await.is_some() {}
    hand.again(&[attempt]).await;
    hand.finished(attempt, Outcome::Succeeded, 0).await;
    assert_eq!(hand.acknowledged().await, attempt);
    assert_eq!(within(job.wait()).await.unwrap().attempt(), 1);
    platform.end().await;
}

#[tokio::test]
async fn a_shutdown_that_leaves_workers_running_ends_their_streams() {
    let mut settings = Settings::quick();
    settings.on_shutdown = hodei_sdk::OnShutdown::Leave;
    let mut platform = Platform::over(Hodei::builder().settings(settings)).await;
    platform.submit(sleeper()).await;
    let mut hand = platform.hand().await;
    let attempt = hand.run().await;
    hand.started(attempt).await;
    platform.end().await;
    while hand.hear().await.is_some() {}
}

#[tokio::test]
async fn an_agent_gets_jobs_only_after_hello_and_is_lost_without_heartbeats() {
    let mut platform = Platform::start().await;
    let job = platform.submit(sleeper().at_most_once()).await;
    let (worker, token) = within(platform.orders.recv()).await.unwrap();
    let connector = GrpcConnector::new(vec![platform.url.clone()], token.clone(), Uuid::from_u128(1));
    let connection = within(connector.connect()).await.unwrap();
    let mut hand = Hand { connector, connection, worker, token, renewals: 0, version: 1 };
    let clock = SystemClock::default();
    let unasked = clock.timeout(Duration::from_millis(500), hand.connection.incoming.recv()).await;
    assert!(unasked.is_err(), "it got a message before its hello: {unasked:?}");
    assert_eq!(platform.job(job.id()).await.status(), JobStatus::Pending);
    hand.hello(&[]).await;
    let attempt = hand.run().await;
    // It starts the job, and sends no heartbeats.
    hand.started(attempt).await;
    let ended = within(job.wait()).await.unwrap();
    assert_eq!(ended.cause(), Some(CauseKind::Lost));
    let found = platform.hodei.workers().get(worker).await.unwrap().unwrap();
    assert_ne!(found.status, WorkerStatus::Busy, "{found:?}");
    platform.end().await;
}

fn report(outcome: Outcome, log_end: u64) -> AttemptReport {
    let now = SystemClock::default().now();
    let report = AttemptReport::unstarted(outcome, now);
    AttemptReport { exit_code: Some(0), started_at: Some(now), log_end, ..report }
}

/// Stores a file as an agent does, with the digest of `digested`.
async fn store(
    hand: &Hand,
    attempt: AttemptId,
    name: &str,
    content: &[u8],
    digested: &[u8],
) -> Result<(), TransferError> {
    use v1::store_request::Part;
    let attempt = Some(convert::attempt_ref(attempt));
    let begin = v1::StoreBegin { attempt, name: name.into(), bytes: content.len() as u64 };
    let sha256 = Digest::from_bytes(Sha256::digest(digested).into());
    let artifact = Artifact {
        name: "a".parse().unwrap(),
        bytes: digested.len() as u64,
        sha256,
        mode: None,
        is_link: false,
    };
    let end = Part::End(convert::artifact_to_wire(&artifact));
    let (requests, incoming) = mpsc::channel(4);
    for part in [Part::Begin(begin), Part::Data(bytes::Bytes::copy_from_slice(content)), end] {
        requests.try_send(v1::StoreRequest { part: Some(part) }).unwrap();
    }
    drop(requests);
    within(hand.connector.store(incoming)).await
}

async fn fetch(hand: &Hand, attempt: AttemptId, path: &str) -> Result<usize, TransferError> {
    let request = v1::FetchRequest { attempt: Some(convert::attempt_ref(attempt)), path: path.into() };
    let mut parts = within(hand.connector.fetch(request)).await?;
    let mut bytes = 0;
    while let Some(part) = within(parts.recv()).await {
        if let Some(v1::artifact_part::Part::Data(data)) = part?.part {
            bytes += data.len();
        }
    }
    Ok(bytes)
}

#[tokio::test]
async fn an_agent_transfers_only_the_artifacts_of_its_own_attempt() {
    let mut settings = Settings::quick();
    settings.lease = Duration::from_secs(60);
    let mut platform = Platform::over(Hodei::builder().settings(settings)).await;
    let job = platform.submit(sleeper().output("out".parse().unwrap())).await;
    let mut owner = platform.hand_of(2).await;
    let attempt = owner.run().await;
    assert_eq!(store(&owner, attempt, "out/a", b"hello", b"hello").await, Ok(()));
    for name in ["outer", "other", "out/../x", "/out/a", ""] {
        let refused = store(&owner, attempt, name, b"hello", b"hello").await;
        assert!(matches!(refused, Err(TransferError::Refused(_))), "{name}: {refused:?}");
    }
    let changed = store(&owner, attempt, "out/b", b"hello", b"jello").await;
    assert!(
        matches!(changed, Err(TransferError::Unavailable(_))),
        "different content is to be resent: {changed:?}"
    );
    let unknown = fetch(&owner, attempt, "in").await.unwrap_err();
    assert!(unknown.to_string().contains("`in` is not an input of the job"), "{unknown}");

    let name = "out/a".parse().unwrap();
    let (bytes, sha256) = (5, Digest::from_bytes(Sha256::digest(b"hello").into()));
    let artifacts = vec![Artifact { name, bytes, sha256, mode: None, is_link: false }];
    let report = AttemptReport { artifacts, ..report(Outcome::Succeeded, 0) };
    owner.say(Says::JobFinished(convert::report_to_wire(attempt, &report))).await;
    owner.acknowledged().await;
    assert_eq!(within(job.wait()).await.unwrap().artifacts().len(), 1);
    let kept = job.artifact(&"out/a".parse().unwrap()).await.unwrap().bytes().await.unwrap();
    assert_eq!(kept, b"hello");
    assert_eq!(store(&owner, attempt, "out/a", b"late", b"late").await, Err(TransferError::Fenced));

    let input = format!("{}/out/a:in", job.id()).parse().unwrap();
    platform.submit(sleeper().input(input)).await;
    let attempt = owner.run().await;
    assert_eq!(fetch(&owner, attempt, "in").await, Ok(5));

    // Another worker, with an attempt of its own.
    let _crowd = (platform.submit(sleeper()).await, platform.submit(sleeper()).await);
    let _more = (platform.submit(sleeper()).await, platform.submit(sleeper()).await);
    let stranger = platform.hand_of(2).await;
    assert_eq!(store(&stranger, attempt, "out/a", b"lie", b"lie").await, Err(TransferError::Fenced));
    assert_eq!(fetch(&stranger, attempt, "in").await, Err(TransferError::Fenced));
    let party = RefusedParty::Agent { worker: Some(stranger.worker), attempt: Some(attempt) };
    refused(&platform, RefusalReason::ForeignAttempt, &party).await;
    platform.end().await;
}

#[tokio::test]
async fn an_agent_without_artifact_support_gets_no_job_with_artifacts() {
    let mut platform = Platform::start().await;
    let retry = RetryPolicy { max_infrastructure: 0, ..RetryPolicy::default() };
    let job = platform.submit(sleeper().retry(retry).output("out".parse().unwrap())).await;
    let _old = platform.hand_of(1).await;
    let ended = within(job.wait()).await.unwrap();
    assert_eq!((ended.cause(), ended.tally().user), (Some(CauseKind::Infrastructure), 0));
    platform.end().await;
}
