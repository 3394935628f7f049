//! A platform over gRPC: clients and agents of a server in the process of the test.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/served.rs"]
mod served;

use std::collections::BTreeSet;
use std::time::Duration;

use hodei_proto::v1;
use hodei_proto::v1::job_execution_service_client::JobExecutionServiceClient;
use hodei_sdk::id::JobId;
use hodei_sdk::port::{ClockExt, FeedCursor, JobFilter, LogBody, StoreError};
use hodei_sdk::worker::WorkerStatus;
use hodei_sdk::{
    ConnectOptions, Error, FailureCause, Hodei, JobChanges, JobFeed, JobSpec, JobStatus, LogItem, Outcome,
    RefusalKind, Refused, Settings, SystemClock,
};
use served::{Served, TOKEN, within};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1alpha;

async fn text(hodei: &Hodei, job: &hodei_sdk::JobHandle, stored: bool) -> String {
    let logs = hodei.jobs().logs(job.id());
    let mut logs = if stored { logs.stored() } else { logs };
    let mut text = Vec::new();
    while let Some(item) = within(logs.next()).await.unwrap() {
        if let LogItem::Record { record, .. } = item
            && let LogBody::Chunk { bytes, .. } = record.body
        {
            text.extend_from_slice(&bytes);
        }
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_handle_behaves_like_a_local_one() {
    let served = Served::local().await;
    let hodei = served.connect().await;
    let spec = JobSpec::shell("echo out; echo err >&2; exit 3").label("team", "a").build().unwrap();
    let job = hodei.submit(spec.clone()).await.unwrap();
    let ended = within(job.wait()).await.unwrap();
    assert_eq!(ended.ending().unwrap().outcome, Outcome::Failed(FailureCause::Exit(3)));
    assert_eq!(*ended, *served.hodei.jobs().get(job.id()).await.unwrap(), "every field arrives");
    let mut both = text(&hodei, &job, false).await;
    assert_eq!(both, text(&hodei, &job, true).await);
    both.retain(|c| c != '\n');
    assert!(both == "outerr" || both == "errout", "{both}");
    assert_eq!(
        hodei.jobs().history(job.id()).await.unwrap(),
        served.hodei.jobs().history(job.id()).await.unwrap()
    );
    let two = hodei.events().read(&FeedCursor::default(), 2).await.unwrap();
    let third = hodei.events().read(&two.next, 1).await.unwrap();
    assert_eq!((two.events.len(), third.events[0].sequence), (2, 3));
    let refused = hodei.events().read(&FeedCursor::new("yesterday"), 1).await.unwrap_err();
    assert!(matches!(&refused, Error::Store(StoreError::Cursor)), "{refused:?}");
    let open =
        hodei.submit(JobSpec::shell("sleep 30").idempotency_key("open").build().unwrap()).await.unwrap();
    assert!(open.is_new());
    let found =
        hodei.submit(JobSpec::shell("sleep 30").idempotency_key("open").build().unwrap()).await.unwrap();
    assert!(!found.is_new() && found.id() == open.id());
    let refused = hodei.jobs().retry(open.id()).await.unwrap_err();
    assert!(matches!(refused, Error::StillOpen { job, .. } if job == open.id()), "{refused:?}");
    let forced = hodei.jobs().retry_open(open.id()).await.unwrap();
    for job in [&open, &forced] {
        let _ = job.cancel().await.unwrap();
        within(job.wait()).await.unwrap();
    }
    let again = hodei.jobs().retry(job.id()).await.unwrap();
    assert_eq!(within(again.wait()).await.unwrap().retry_of(), Some(job.id()));
    let filter = JobFilter { labels: vec![("team".into(), "a".into())], limit: 1, ..JobFilter::default() };
    let page = hodei.jobs().list(filter.clone()).await.unwrap();
    assert_eq!((page.jobs[0].id(), page.next), (again.id(), Some(again.id())));
    let rest = hodei.jobs().list(JobFilter { after: page.next, ..filter }).await.unwrap();
    assert_eq!((rest.jobs[0].id(), rest.jobs.len()), (job.id(), 1));
    assert_eq!(hodei.submit_as(job.id(), spec).await.unwrap().id(), job.id(), "a repeat finds the first");
    assert_eq!(hodei.queue().status().await.unwrap().queued, 0);
    let workers = hodei.workers().list().await.unwrap();
    assert_eq!(workers, served.hodei.workers().list().await.unwrap());
    assert_eq!(hodei.workers().get(workers[0].id).await.unwrap(), Some(workers[0].clone()));
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_follows_every_state_up_to_a_cancel() {
    let served = Served::local().await;
    let hodei = served.connect().await;
    let job = hodei.submit(JobSpec::command(["sleep", "60"]).build().unwrap()).await.unwrap();
    let mut watch = hodei.jobs().watch(job.id());
    while within(watch.next()).await.unwrap().unwrap().status() != JobStatus::Running {}
    job.cancel().await.unwrap();
    let mut last = None;
    while let Some(state) = within(watch.next()).await.unwrap() {
        last = Some(state.status());
    }
    assert_eq!(last, Some(JobStatus::Cancelled));
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_the_name_of_the_field() {
    let served = Served::local().await;
    let refused = |error: Error| match error {
        Error::Refused(Refused { kind, message, .. }) => (kind, message),
        error => panic!("{error:?}"),
    };
    let (kind, message) = refused(Hodei::connect(&served.url).await.unwrap_err());
    assert!(kind == RefusalKind::Unauthenticated && message.contains("token"), "{kind:?} {message}");
    let wrong = ConnectOptions { token: Some("wrong".into()), ..ConnectOptions::new(&served.url) };
    let (kind, message) = refused(Hodei::connect_with(wrong).await.unwrap_err());
    assert!(kind == RefusalKind::Unauthenticated && message.contains("token file"), "{kind:?} {message}");
    let (kind, message) = refused(Hodei::connect("http://127.0.0.1:1").await.unwrap_err());
    assert!(
        kind == RefusalKind::Unavailable && message.contains("there is no daemon at"),
        "{kind:?} {message}"
    );
    for text in ["not a url", "somewhere", "127.0.0.1:7443", ""] {
        let (kind, message) = refused(Hodei::connect(text).await.unwrap_err());
        assert!(
            kind == RefusalKind::Invalid && message.contains("http://HOST:PORT"),
            "{text}: {kind:?} {message}"
        );
    }
    let hodei = served.connect().await;
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    assert!(matches!(hodei.jobs().get(unknown).await, Err(Error::NotFound(id)) if id == unknown));
    assert!(matches!(hodei.jobs().logs(unknown).next().await, Err(Error::NotFound(_))));
    assert!(matches!(hodei.job(unknown).wait().await, Err(Error::NotFound(_))));
    let image = JobSpec::command(["true"]).image("alpine").build().unwrap();
    assert_eq!(hodei.submit(image).await.unwrap_err().field(), Some("image"));
    let done = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    within(done.wait()).await.unwrap();
    assert!(matches!(done.cancel().await, Err(Error::Ended { status: JobStatus::Succeeded, .. })));
    served.end().await;
}

/// A client without the library: it makes plain gRPC calls.
struct Raw(JobExecutionServiceClient<Channel>);

impl Raw {
    async fn connect(served: &Served) -> Self {
        let endpoint = Endpoint::from_shared(served.url.clone()).unwrap();
        Self(JobExecutionServiceClient::new(endpoint.connect().await.unwrap()))
    }

    fn request<T>(message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
        request
    }

    async fn get(&mut self, id: &str) -> tonic::Status {
        self.0.get(Self::request(v1::GetRequest { job_id: id.into() })).await.unwrap_err()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_and_its_answer_share_a_correlation_id() {
    let served = Served::local().await;
    let mut raw = Raw::connect(&served).await;
    let list = |id: Option<&str>| {
        let mut request = Raw::request(v1::ListRequest::default());
        id.into_iter()
            .for_each(|id| drop(request.metadata_mut().insert("x-correlation-id", id.parse().unwrap())));
        request
    };
    let answer = raw.0.list(list(Some("order 7"))).await.unwrap();
    assert_eq!(answer.metadata().get("x-correlation-id").unwrap(), "order 7");
    let made = raw.0.list(list(None)).await.unwrap();
    assert_eq!(made.metadata().get("x-correlation-id").unwrap().len(), 36, "a UUID");
    let refused = raw.0.list(list(Some(&"x".repeat(129)))).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("x-correlation-id"), "{refused}");
    // Refusals have the id too, so that a user can quote it.
    let mut unauthorised = list(Some("order 8"));
    unauthorised.metadata_mut().remove("authorization");
    let refused = raw.0.list(unauthorised).await.unwrap_err();
    assert_eq!(refused.metadata().get("x-correlation-id").unwrap(), "order 8");
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_reports_its_health_and_its_services() {
    let served = Served::local().await;
    let channel = Endpoint::from_shared(served.url.clone()).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let answer = health.check(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let answers = reflection.server_reflection_info(tokio_stream::once(question)).await.unwrap();
    let answer = within(answers.into_inner().message()).await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!() };
    // The order is undefined, and each version of reflection lists only itself.
    let names = |services: Vec<String>| {
        services.into_iter().filter(|name| !name.starts_with("grpc.reflection.")).collect::<BTreeSet<_>>()
    };
    let newer = names(list.service.into_iter().map(|service| service.name).collect());
    for service in ["JobExecutionService", "WorkerAgentService", "LogStreamService", "SchedulerService"] {
        assert!(newer.contains(&format!("hodei.v1.{service}")), "{service}: {newer:?}");
    }
    // The version that older tools use.
    let question = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let mut reflection = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = reflection.server_reflection_info(tokio_stream::once(question)).await.unwrap();
    let answer = within(answers.into_inner().message()).await.unwrap().unwrap();
    use v1alpha::server_reflection_response::MessageResponse as OlderResponse;
    let Some(OlderResponse::ListServicesResponse(list)) = answer.message_response else { panic!() };
    assert_eq!(names(list.service.into_iter().map(|service| service.name).collect()), newer);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_gets_the_right_status() {
    let served = Served::local().await;
    let mut raw = Raw::connect(&served).await;
    let malformed = raw.get("7").await;
    assert_eq!(malformed.code(), tonic::Code::InvalidArgument);
    assert!(malformed.message().contains("job_id"), "{malformed}");
    let unknown = raw.get("01890a5d-ac96-774b-bcce-b302099a8057").await;
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    // A message over the limit fails the call, but neither the connection nor the daemon.
    let spec = v1::JobSpec { stdin: vec![b'x'; 5 << 20].into(), ..v1::JobSpec::default() };
    let submit = v1::SubmitRequest { job_id: String::new(), spec: Some(spec) };
    let long = raw.0.submit(Raw::request(submit)).await.unwrap_err();
    assert_eq!(long.code(), tonic::Code::OutOfRange, "{long}");
    // A client that disconnects during a stream.
    let hodei = served.connect().await;
    let job = hodei.submit(JobSpec::shell("while :; do echo more; done").build().unwrap()).await.unwrap();
    let vanishing = served.connect().await;
    let mut logs = vanishing.jobs().logs(job.id());
    within(logs.next()).await.unwrap().unwrap();
    drop((logs, vanishing));
    within(job.cancel()).await.unwrap();
    assert_eq!(within(job.wait()).await.unwrap().status(), JobStatus::Cancelled);
    let next = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    assert_eq!(within(next.wait()).await.unwrap().status(), JobStatus::Succeeded);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_end_with_an_error_that_names_the_absent_daemon() {
    let served = Served::local().await;
    let options = ConnectOptions { patience: Duration::from_millis(300), ..served.options() };
    let (url, hodei) = (served.url.clone(), Hodei::connect_with(options).await.unwrap());
    served.end().await;
    let error = within(hodei.jobs().list(JobFilter::default())).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains(&format!("the daemon at {url} has not answered for 300ms")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_travel_in_batches() {
    let served = Served::local().await;
    let hodei = served.connect().await;
    // More than fit into one message, by number and by size.
    let big = || JobSpec::command(["true"]).stdin(vec![b'x'; 900_000]).build().unwrap();
    let small = || JobSpec::command(["true"]).build().unwrap();
    let specs = (0..6).map(|_| big()).chain((0..1500).map(|_| small())).collect();
    let jobs = within(hodei.submit_batch(specs)).await.unwrap();
    assert_eq!(jobs.len(), 1506);
    for job in jobs {
        assert_eq!(within(job.unwrap().wait()).await.unwrap().status(), JobStatus::Succeeded);
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_worker_runs_jobs_and_reports_its_state() {
    let mut settings = Settings::quick();
    settings.lease = Duration::from_secs(5);
    let served = Served::with_processes(settings).await;
    let spec = JobSpec::shell("head -c 3000000 /dev/zero | tr '\\0' x; env >&2").build().unwrap();
    let job = served.hodei.submit(spec).await.unwrap();
    let ended = within(job.wait()).await.unwrap();
    assert_eq!(ended.status(), JobStatus::Succeeded, "{ended:?}");
    let output = text(&served.hodei, &job, false).await;
    assert_eq!(output.matches('x').count() / 1_000_000, 3);
    assert!(!output.contains("HODEI_ORDER_ID"), "a job does not inherit the environment of its agent");
    let worker = ended.worker().unwrap();
    let measured = async {
        loop {
            let view = served.hodei.workers().get(worker).await.unwrap().unwrap();
            if view.metrics.is_some() {
                return view;
            }
            SystemClock::default()
                .timeout(Duration::from_millis(20), std::future::pending::<()>())
                .await
                .ok();
        }
    };
    let view = within(measured).await;
    assert!(
        view.connected && view.metrics.unwrap().memory_total > 0 && view.status != WorkerStatus::Terminated
    );
    assert!(matches!(
        served.hodei.workers().drain("01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()).await,
        Err(Error::NoWorker(_))
    ));
    let client = served.connect().await;
    client.workers().drain(worker).await.unwrap();
    let left = async {
        while served.hodei.workers().get(worker).await.unwrap().unwrap().status != WorkerStatus::Terminated {
            SystemClock::default()
                .timeout(Duration::from_millis(20), std::future::pending::<()>())
                .await
                .ok();
        }
    };
    within(left).await;
    assert_eq!(client.workers().get(worker).await.unwrap().unwrap().cause.as_deref(), Some("retired"));
    served.end().await;
    // An agent that has left is ending.
    let marks = [format!("HODEI_WORKER_ID={worker}")];
    let gone = async {
        while !hodei_agent::marked_processes(&marks).is_empty() {
            SystemClock::default()
                .timeout(Duration::from_millis(20), std::future::pending::<()>())
                .await
                .ok();
        }
    };
    within(gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_leaves_no_process_and_its_job_runs_again() {
    let served = Served::with_processes(Settings::quick()).await;
    let dir = tempfile::tempdir().unwrap();
    let line = format!("echo $HODEI_ATTEMPT $$ >> {}/starts; sleep 60", dir.path().display());
    let job = served.hodei.submit(JobSpec::shell(line).build().unwrap()).await.unwrap();
    let running = |attempt: u32| {
        let (hodei, id) = (served.hodei.clone(), job.id());
        async move {
            let mut watch = hodei.jobs().watch(id);
            loop {
                let job = watch.next().await.unwrap().unwrap();
                if job.status() == JobStatus::Running && job.attempt() == attempt {
                    return job.worker().unwrap();
                }
            }
        }
    };
    let first = within(running(1)).await;
    let mark = [format!("HODEI_WORKER_ID={first}")];
    for pid in hodei_agent::marked_processes(&mark) {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environ).contains("HODEI_ORDER_ID=") {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
    let second = within(running(2)).await;
    assert!(first != second && hodei_agent::marked_processes(&mark).is_empty());
    job.cancel().await.unwrap();
    within(job.wait()).await.unwrap();
    served.end().await;
}

/// Follows a feed until `count` jobs have ended. Returns them and the place after them.
async fn ends_of(feed: &mut JobFeed, count: usize) -> (BTreeSet<JobId>, FeedCursor) {
    let (mut ended, mut place) = (BTreeSet::new(), FeedCursor::default());
    while ended.len() < count {
        let JobChanges { jobs, next } = within(feed.next()).await.unwrap();
        ended.extend(jobs.iter().filter(|job| job.is_terminal()).map(|job| job.id()));
        place = next;
    }
    (ended, place)
}

async fn run(hodei: &Hodei, count: usize) -> BTreeSet<JobId> {
    let specs = (0..count).map(|_| JobSpec::command(["true"]).build().unwrap()).collect();
    let jobs = hodei.submit_batch(specs).await.unwrap();
    jobs.into_iter().map(|job| job.unwrap().id()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_all_jobs_continues_from_the_place_of_another() {
    let served = Served::local().await;
    let far = served.connect().await;
    let mut known = run(&served.hodei, 3).await;
    for hodei in [&served.hodei, &far] {
        let beginning = FeedCursor::default();
        let mut feed = hodei.jobs().watch_all(Some(beginning.clone())).ends_only(true);
        assert_eq!(ends_of(&mut feed, known.len()).await.0, known);
        let mut feed = hodei.jobs().watch_all(None);
        let begins = within(feed.next()).await.unwrap();
        assert!(begins.jobs.is_empty() && begins.next != beginning);
        let jobs = run(hodei, 40).await;
        let (ended, place) = ends_of(&mut feed, 40).await;
        assert_eq!(ended, jobs, "earlier jobs are not reported");
        drop(feed);
        let more = run(hodei, 40).await;
        assert_eq!(ends_of(&mut hodei.jobs().watch_all(Some(place)), 40).await.0, more, "nothing was missed");
        let both: BTreeSet<JobId> = jobs.union(&more).copied().collect();
        assert_eq!(ends_of(&mut hodei.jobs().watch_all(Some(begins.next)), 80).await.0, both);
        let wrong = within(hodei.jobs().watch_all(Some(FeedCursor::new("yesterday"))).next()).await;
        assert!(wrong.is_err_and(|error| error.to_string().contains("cursor")));
        known.extend(both);
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_all_outlives_its_daemon() {
    let served = Served::local().await;
    let far = served.connect().await;
    let mut feed = far.jobs().watch_all(None);
    within(feed.next()).await.unwrap();
    let first = run(&far, 5).await;
    assert_eq!(ends_of(&mut feed, 5).await.0, first);
    // The server stops, the platform stays, and another server replaces it.
    let Served { hodei, url, stop, server } = served;
    stop.cancel();
    within(server).await.unwrap().unwrap();
    let meanwhile = run(&hodei, 5).await;
    let listener = tokio::net::TcpListener::bind(url.strip_prefix("http://").unwrap()).await.unwrap();
    let served = Served::of(listener, hodei);
    assert_eq!(ends_of(&mut feed, 5).await.0, meanwhile);
    drop(feed);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_stores_cannot_order_is_refused() {
    let served = Served::local().await;
    let spec = || JobSpec::command(["true"]).build().unwrap();
    for hodei in [served.connect().await, served.hodei.clone()] {
        for id in [
            uuid::Uuid::nil(),
            uuid::Uuid::max(),
            uuid::Uuid::from_u128(0x9b2c3d4e_5f60_4718_92a3_b4c5d6e7f809),
            uuid::Uuid::from_u128(0x0fffffff_ffff_7fff_8fff_ffffffffffff),
        ] {
            let refused = hodei.submit_as(JobId::from_uuid(id), spec()).await.unwrap_err();
            assert_eq!(refused.field(), Some("id"), "{refused}");
            let batch = hodei.submit_many(vec![(Some(JobId::from_uuid(id)), spec()), (None, spec())]).await;
            let batch = batch.unwrap();
            assert!(batch[0].is_err() && batch[1].is_ok(), "the other job is accepted");
        }
        let long = JobSpec::command(["echo".to_owned(), "x".repeat(131_072)]).build().unwrap();
        let refused = hodei.submit(long).await.unwrap_err();
        assert!(refused.field() == Some("command") && refused.to_string().contains("131071"), "{refused}");
    }
    served.end().await;
}
