//! The feed of a PostgreSQL store after a restore into another server, and with concurrent transactions.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over a real server and real time")]

#[path = "support/postgres.rs"]
mod postgres;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hodei_sdk::event::Envelope;
use hodei_sdk::id::JobId;
use hodei_sdk::port::{FeedCursor, Store};
use hodei_sdk::{Hodei, JobSpec, JobStatus, MemoryEventSink, PostgresStore};
use sqlx::{Connection, Executor, PgConnection};

async fn run(hodei: &Hodei, count: usize) -> Vec<JobId> {
    let specs = (0..count).map(|_| JobSpec::command(["true"]).build().unwrap()).collect();
    let mut jobs = Vec::new();
    for job in hodei.submit_batch(specs).await.unwrap() {
        let job = job.unwrap();
        assert_eq!(job.wait().await.unwrap().status(), JobStatus::Succeeded);
        jobs.push(job.id());
    }
    jobs
}

/// Reads the feed after a place until it has all events of some jobs. Returns the job events and the place after them.
async fn events(hodei: &Hodei, after: &FeedCursor, of: &[JobId]) -> (Vec<Envelope>, FeedCursor) {
    let (mut all, mut after, start) = (Vec::<Envelope>::new(), after.clone(), Instant::now());
    let mut expected = BTreeSet::new();
    for job in of {
        expected.extend(hodei.jobs().history(*job).await.unwrap().into_iter().map(|event| event.id));
    }
    while !expected.iter().all(|id| all.iter().any(|event| event.id == *id)) {
        assert!(start.elapsed() < Duration::from_secs(10), "{} of {}", all.len(), expected.len());
        let page = hodei.events().read(&after, 7).await.unwrap();
        if page.events.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        all.extend(page.events);
        after = page.next;
    }
    let job_of = |event: &Envelope| matches!(event.aggregate, hodei_sdk::decision::AggregateId::Job(_));
    all.retain(job_of);
    (all, after)
}

fn ids(events: &[Envelope]) -> Vec<String> {
    events.iter().map(|event| event.id.to_string()).collect()
}

fn dump(url: &str) -> Vec<u8> {
    let output = Command::new(postgres::program("pg_dump")).arg(url).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn restore(url: &str, dump: &[u8]) {
    use std::io::Write;
    let mut command = Command::new(postgres::program("psql"));
    let mut child = command
        .args(["-q", "-v", "ON_ERROR_STOP=1", "-d", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(dump).unwrap();
    assert!(child.wait().unwrap().success());
}

async fn open(url: &str, sink: &MemoryEventSink) -> Hodei {
    Hodei::builder().url(url).event_sink(Arc::new(sink.clone())).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_read_once_in_order_after_a_restore_into_another_server() {
    let Some((old, new)) = postgres::server().zip(postgres::own()) else { return };
    let url = old.database().await;
    // Raises the transaction numbers above those of the new server.
    let many = "DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$";
    old.run("postgres", many).await;
    let sink = MemoryEventSink::new(10_000);
    let hodei = open(&url, &sink).await;
    let first = run(&hodei, 3).await;
    let (before, middle) = events(&hodei, &FeedCursor::default(), &first).await;
    let second = run(&hodei, 3).await;
    let (rest, end) = events(&hodei, &middle, &second).await;
    hodei.shutdown().await;
    let dumped = dump(&url);
    // Jobs that are not in the dump: a cursor after them is still valid.
    let hodei = open(&url, &MemoryEventSink::new(10_000)).await;
    let lost = run(&hodei, 2).await;
    let (_, later) = events(&hodei, &end, &lost).await;
    hodei.shutdown().await;
    for (number, url) in [new.database().await, old.database().await].into_iter().enumerate() {
        restore(&url, &dumped);
        // The second server has a new sink.
        let sink = if number == 0 { sink.clone() } else { MemoryEventSink::new(10_000) };
        let hodei = open(&url, &sink).await;
        let third = run(&hodei, 4).await;
        let (come, _) = events(&hodei, &end, &third).await;
        assert!(come.iter().all(|event| !ids(&rest).contains(&event.id.to_string())), "no event is repeated");
        assert_eq!(events(&hodei, &later, &third).await.0, come, "a later cursor gets the same events");
        let (all, _) = events(&hodei, &middle, &[second.clone(), third.clone()].concat()).await;
        assert_eq!(ids(&all), [ids(&rest), ids(&come)].concat(), "in the same order");
        let all = [first.clone(), second.clone(), third].concat();
        let (all, _) = events(&hodei, &FeedCursor::default(), &all).await;
        assert_eq!(ids(&all), [ids(&before), ids(&rest), ids(&come)].concat());
        let start = Instant::now();
        while sink.events().last().map(|event| event.id) < come.last().map(|event| event.id)
            && start.elapsed() < Duration::from_secs(5)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let told: Vec<String> = ids(&sink.events());
        assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), told.len(), "a sink gets each event once");
        assert!(ids(&all).iter().all(|id| told.contains(id)), "and it gets all of them");
        hodei.shutdown().await;
        // Another start changes no event.
        let hodei = open(&url, &sink).await;
        let fourth = run(&hodei, 1).await;
        let (again, _) = events(&hodei, &end, &fourth).await;
        assert_eq!(ids(&again)[..come.len()], ids(&come));
        hodei.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_that_start_at_once_on_a_restored_store_agree_on_its_owner() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let original = PostgresStore::connect(&url).await.unwrap().owner();
    let dumped = dump(&url);
    for _ in 0..4 {
        let url = server.database().await;
        restore(&url, &dumped);
        let opened = (0..4).map(|_| PostgresStore::connect(&url));
        let owners: BTreeSet<_> = futures_util::future::join_all(opened)
            .await
            .into_iter()
            .map(|store| store.unwrap().owner())
            .collect();
        assert_eq!(owners.len(), 1, "{owners:?}");
        assert!(!owners.contains(&original), "a restored store must not own the workers of its original");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_another_database_delays_no_event() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let hodei = Hodei::open(&url).await.unwrap();
    let mut other = PgConnection::connect(&server.url("postgres")).await.unwrap();
    other.execute(sqlx::raw_sql("BEGIN; SELECT pg_current_xact_id()")).await.unwrap();
    let jobs = run(&hodei, 3).await;
    let start = Instant::now();
    let (_, after) = events(&hodei, &FeedCursor::default(), &jobs).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(hodei.queue().status().await.unwrap().feed_lag < Duration::from_secs(1));
    // A transaction of this database may still write an earlier event, so the feed waits for it.
    let mut own = PgConnection::connect(&url).await.unwrap();
    own.execute(sqlx::raw_sql("BEGIN; SELECT pg_current_xact_id()")).await.unwrap();
    let jobs = run(&hodei, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(hodei.events().read(&after, 10).await.unwrap().events.is_empty());
    assert!(hodei.queue().status().await.unwrap().feed_lag >= Duration::from_secs(1));
    own.execute(sqlx::raw_sql("COMMIT")).await.unwrap();
    events(&hodei, &after, &jobs).await;
    other.execute(sqlx::raw_sql("COMMIT")).await.unwrap();
    hodei.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_beyond_the_feed_is_refused_with_advice() {
    let Some(server) = postgres::server() else { return };
    let hodei = Hodei::open(&server.database().await).await.unwrap();
    let beyond = FeedCursor::new("99999999999.5");
    let refused = hodei.events().read(&beyond, 10).await.unwrap_err().to_string();
    assert!(refused.contains("begin again without one"), "{refused}");
    hodei.shutdown().await;
}
