//! Transports of hints between daemons: they suffice without sweeps, and their failures lose no job.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/deaf.rs"]
mod deaf;
#[path = "support/nats.rs"]
mod nats;
#[path = "support/postgres.rs"]
mod postgres;

use std::collections::BTreeSet;
use std::time::Duration;

use deaf::DeafWay;
use hodei_sdk::decision::AggregateId;
use hodei_sdk::event::channel::JOB_QUEUE_CHANNEL;
use hodei_sdk::event::{Actor, DomainEvent, Envelope};
use hodei_sdk::id::{EventId, JobId, StoreId};
use hodei_sdk::job::{Labels, Priority};
use hodei_sdk::port::{Clock, ClockExt, Delivery, EventBus, Subscription};
use hodei_sdk::time::Timestamp;
use hodei_sdk::{
    Error, Hodei, JobSpec, JobStatus, LocalOptions, LocalProvider, NatsEventBus, OpenError, PostgresEventBus,
    Settings, SystemClock,
};
use nats::Nats;
use tokio::runtime::Handle;
use uuid::Uuid;

/// Starts a platform whose workers have their own label.
async fn platform(store: &str, hints: &str, name: &'static str, settings: Settings) -> Hodei {
    let labels = Labels::from([("where".to_owned(), name.to_owned())]);
    let options = LocalOptions { name: name.to_owned(), labels, ..LocalOptions::default() };
    let builder = Hodei::builder().url(store).hints(hints).settings(settings);
    builder.provider(move |context| LocalProvider::new(context, options)).start().await.unwrap()
}

/// Has each platform submit jobs for the workers of both, and checks that all succeed.
async fn all_succeed(platforms: [&Hodei; 2], each: usize, script: &str) {
    let mut jobs = Vec::new();
    for hodei in platforms {
        for place in ["one", "two"] {
            let spec = || {
                let spec = JobSpec::shell(script).constraint(format!("where EQ {place}").parse().unwrap());
                spec.build().unwrap()
            };
            jobs.extend(hodei.submit_batch((0..each).map(|_| spec()).collect()).await.unwrap());
        }
    }
    for job in jobs {
        let job = job.unwrap();
        let ended = SystemClock::default().timeout(Duration::from_secs(60), job.wait()).await;
        let ended = ended.expect("it ends").unwrap();
        assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
    }
}

async fn finish_without_sweeps(store: &str, hints: &str) {
    let settings = || {
        let mut settings = Settings::quick();
        // Long enough that no lease expires while two platforms share a busy machine.
        (settings.sweep, settings.daemon_lease) = (None, Duration::from_secs(10));
        settings
    };
    let one = platform(store, hints, "one", settings()).await;
    let two = platform(store, hints, "two", settings()).await;
    all_succeed([&one, &two], 250, "true").await;
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sweeps_a_thousand_jobs_finish_by_notify() {
    let Some(server) = postgres::server() else { return };
    let store = server.database().await;
    finish_without_sweeps(&store, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sweeps_a_thousand_jobs_finish_by_nats() {
    let (Some(server), Some(nats)) = (postgres::server(), Nats::start()) else { return };
    finish_without_sweeps(&server.database().await, &nats.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_nats_affect_no_job() {
    let (Some(server), Some(mut nats)) = (postgres::server(), Nats::absent()) else { return };
    let store = server.database().await;
    let settings = || {
        let mut settings = Settings::quick();
        settings.daemon_lease = Duration::from_secs(5);
        settings
    };
    let one = platform(&store, &nats.url(), "one", settings()).await;
    let two = platform(&store, &nats.url(), "two", settings()).await;
    all_succeed([&one, &two], 5, "true").await;
    nats.up();
    let (clock, both) = (SystemClock::default(), [&one, &two]);
    let comes_and_goes = async {
        for _ in 0..3 {
            clock.sleep(Duration::from_millis(400)).await;
            nats.down();
            clock.sleep(Duration::from_millis(400)).await;
            nats.up();
        }
    };
    tokio::join!(comes_and_goes, all_succeed(both, 40, "sleep 0.05"));
    one.shutdown().await;
    two.shutdown().await;
}

fn queued(number: u128) -> Envelope {
    let id = EventId::from_uuid(Uuid::from_u128(number));
    let job = AggregateId::Job(JobId::from_uuid(id.as_uuid()));
    let event = DomainEvent::JobQueued { priority: Priority::NORMAL };
    Envelope::hint(id, Timestamp::EPOCH, job, Actor::Client, event)
}

/// The deliveries of a subscription until it is quiet.
#[derive(Debug, Default)]
struct Heard {
    lost: bool,
    jobs: BTreeSet<AggregateId>,
}

impl Heard {
    async fn all(subscription: &mut Box<dyn Subscription>, quiet: Duration) -> Self {
        let (clock, mut heard) = (SystemClock::default(), Self::default());
        while let Ok(delivery) = clock.timeout(quiet, subscription.next()).await {
            match delivery {
                Delivery::Lagged => heard.lost = true,
                Delivery::Events(events) => heard.jobs.extend(events.iter().map(|event| event.aggregate)),
            }
        }
        heard
    }
}

/// Publishes a hint repeatedly until the subscription receives it. Returns everything that it receives.
async fn publish_until_heard(
    from: &NatsEventBus,
    subscription: &mut Box<dyn Subscription>,
    number: u128,
) -> Heard {
    let (clock, mut heard) = (SystemClock::default(), Heard::default());
    let until = clock.monotonic() + Duration::from_secs(20);
    while !heard.jobs.contains(&queued(number).aggregate) {
        assert!(clock.monotonic() < until, "no hint arrived within 20 s");
        from.publish(&[queued(number)]).await.unwrap();
        let now = Heard::all(subscription, Duration::from_millis(300)).await;
        heard.lost |= now.lost;
        heard.jobs.extend(now.jobs);
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_listener_is_replaced_within_a_minute() {
    let Some(server) = postgres::server() else { return };
    let direct = server.database().await;
    let address = direct.rsplit('@').next().unwrap();
    let port = address.split([':', '/']).nth(1).unwrap().parse().unwrap();
    let way = DeafWay::before(port).await;
    let through = direct.replace(&format!(":{port}/"), &format!(":{}/", way.port));
    let (one, two) =
        (PostgresEventBus::connect(&direct).await.unwrap(), PostgresEventBus::connect(&through).await);
    let (two, clock) = (two.unwrap(), SystemClock::default());
    let mut hears = two.subscribe(&[JOB_QUEUE_CHANNEL]);
    one.publish(&[queued(1)]).await.unwrap();
    let heard = Heard::all(&mut hears, Duration::from_secs(1)).await;
    assert!(heard.jobs.contains(&queued(1).aggregate) && !heard.lost);
    way.cut();
    one.publish(&[queued(2)]).await.unwrap();
    // Hints sent meanwhile are lost, which is reported as lag.
    let told = clock.timeout(Duration::from_secs(45), hears.next()).await.expect("the loss is noticed");
    assert!(matches!(told, Delivery::Lagged), "{told:?}");
    one.publish(&[queued(3)]).await.unwrap();
    let heard = Heard::all(&mut hears, Duration::from_secs(1)).await;
    assert!(heard.jobs.contains(&queued(3).aggregate), "{heard:?}");
    // The connection that sends was cut as well.
    let mut others = one.subscribe(&[JOB_QUEUE_CHANNEL]);
    let begun = clock.monotonic();
    while !Heard::all(&mut others, Duration::from_millis(500)).await.jobs.contains(&queued(4).aggregate) {
        assert!(clock.monotonic() - begun < Duration::from_secs(45), "no hint is sent");
        two.publish(&[queued(4)]).await.unwrap();
    }
}

fn store(number: u128) -> StoreId {
    StoreId::from_uuid(Uuid::from_u128(number))
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_lost_by_nats_are_reported_as_lag_and_not_sent_late() {
    let Some(mut nats) = Nats::absent() else { return };
    let one = NatsEventBus::connect(&nats.url(), store(1)).await.unwrap();
    let two = NatsEventBus::connect(&nats.url(), store(1)).await.unwrap();
    let mut hears = two.subscribe(&[JOB_QUEUE_CHANNEL]);
    one.publish(&[queued(1)]).await.unwrap();
    nats.up();
    let heard = publish_until_heard(&one, &mut hears, 2).await;
    assert!(
        heard.lost && !heard.jobs.contains(&queued(1).aggregate),
        "the server was not up at first: {heard:?}"
    );
    nats.down();
    one.publish(&[queued(3)]).await.unwrap();
    nats.up();
    let heard = publish_until_heard(&one, &mut hears, 4).await;
    assert!(
        heard.lost && !heard.jobs.contains(&queued(3).aggregate),
        "the server was down meanwhile: {heard:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_bus_leaves_no_task() {
    let Some(mut nats) = Nats::absent() else { return };
    let (metrics, clock) = (Handle::current().metrics(), SystemClock::default());
    for is_there in [false, true] {
        let before = metrics.num_alive_tasks();
        if is_there {
            nats.up();
        }
        let bus = NatsEventBus::connect(&nats.url(), store(1)).await.unwrap();
        assert!(metrics.num_alive_tasks() > before);
        nats.down();
        clock.sleep(Duration::from_millis(100)).await;
        drop(bus);
        let ends = async {
            while metrics.num_alive_tasks() > before {
                clock.sleep(Duration::from_millis(20)).await;
            }
        };
        clock.timeout(Duration::from_secs(10), ends).await.expect("its tasks end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_on_one_server_get_no_hints_of_each_other() {
    let Some(nats) = Nats::start() else { return };
    let mine = NatsEventBus::connect(&nats.url(), store(1)).await.unwrap();
    let other = NatsEventBus::connect(&nats.url(), store(2)).await.unwrap();
    let own = NatsEventBus::connect(&nats.url(), store(1)).await.unwrap();
    let (mut hears, mut others) =
        (own.subscribe(&[JOB_QUEUE_CHANNEL]), other.subscribe(&[JOB_QUEUE_CHANNEL]));
    assert_eq!(publish_until_heard(&mine, &mut hears, 1).await.jobs.len(), 1);
    let heard = Heard::all(&mut others, Duration::from_millis(300)).await;
    assert!(!heard.lost && heard.jobs.is_empty(), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_credentials_are_sent_to_the_server_and_never_shown() {
    for (arguments, user, wrong) in [
        (&["--user", "me", "--pass", "se cr@t"][..], "me:se%20cr%40t", "me:wrong-secret"),
        (&["--auth", "tok3n"][..], "tok3n", "wrong-secret"),
    ] {
        let Some(nats) = Nats::guarded(arguments) else { return };
        let one = NatsEventBus::connect(&nats.url_of(user), store(1)).await.unwrap();
        let two = NatsEventBus::connect(&nats.url_of(user), store(1)).await.unwrap();
        assert!(!publish_until_heard(&one, &mut two.subscribe(&[JOB_QUEUE_CHANNEL]), 1).await.lost);
        assert!(!format!("{one:?}").contains(user), "{one:?}");
        for url in [nats.url_of(wrong), nats.url()] {
            let refused = NatsEventBus::connect(&url, store(1)).await;
            let Err(error @ OpenError::Nats { .. }) = refused else { panic!("{url}: {refused:?}") };
            assert!(
                !error.to_string().contains("secret") && error.to_string().contains("127.0.0.1"),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn an_unsupported_hints_url_is_refused() {
    let Some(server) = postgres::server() else { return };
    let store = server.database().await;
    for url in [
        "mqtt://localhost",
        "nats://",
        "nats://a b",
        "nats://me:secret@host:port",
        "me:secret@host",
        "nats://a,me:a,secret@host",
        "nats",
        "",
    ] {
        let started = Hodei::builder().url(&store).hints(url).start().await;
        let Err(Error::Open(error @ OpenError::Hints { .. })) = started else { panic!("{url}: {started:?}") };
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
