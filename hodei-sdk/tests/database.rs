//! What a platform makes of a PostgreSQL that is not as it should be.
#![allow(clippy::unwrap_used, reason = "a test")]

mod postgres;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hodei_sdk::port::{Clock, JobFilter};
use hodei_sdk::{Error, Hodei, JobSpec, JobStatus, PostgresEventBus, PostgresStore, SystemClock};
use sqlx::postgres::PgPoolOptions;

async fn refused(url: &str) -> String {
    match Hodei::open(url).await {
        Err(Error::Open(error)) => error.to_string(),
        other => panic!("{url}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_database_is_said_at_the_start() {
    let Some(server) = postgres::server() else { return };
    for (url, words) in [
        ("postgres://hodei@127.0.0.1:1/d", &["`d`", "127.0.0.1:1", "is PostgreSQL running there?"][..]),
        ("postgres://hodei:secret@[::1/d", &["URL"]),
        (&server.url("nowhere"), &["`nowhere`", "does not exist", "createdb"]),
    ] {
        let said = refused(url).await;
        assert!(words.iter().all(|word| said.contains(word)) && !said.contains("secret"), "{url}: {said}");
    }
    let url = server.database().await;
    let name = url.rsplit('/').next().unwrap();
    let role = format!("poor_{}", std::process::id());
    server
        .run(name, &format!("CREATE ROLE {role} LOGIN; REVOKE CREATE ON DATABASE {name} FROM PUBLIC"))
        .await;
    let poor = url.replace("hodei@", &format!("{role}@"));
    let said = refused(&poor).await;
    assert!(said.contains("permission denied") && said.contains("right to CREATE"), "{said}");
    // Made by another, the tables are enough.
    Hodei::open(&url).await.unwrap().shutdown().await;
    let grant = format!(
        "GRANT USAGE ON SCHEMA hodei TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA hodei TO {role}; \
         GRANT ALL ON ALL SEQUENCES IN SCHEMA hodei TO {role}"
    );
    server.run(name, &grant).await;
    let hodei = Hodei::open(&poor).await.unwrap();
    let job = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    assert_eq!(job.wait().await.unwrap().status(), JobStatus::Succeeded);
    hodei.shutdown().await;
    server
        .run(name, "INSERT INTO hodei.migrations (version) VALUES (99); UPDATE hodei.store SET needs = 99")
        .await;
    let said = refused(&url).await;
    assert!(said.contains("99"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_is_enough() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
    let store = PostgresStore::from_pool(pool).await.unwrap();
    let bus = PostgresEventBus::connect(&url).await.unwrap();
    let hodei = Hodei::builder().postgres(store, bus).start().await.unwrap();
    let specs = (0..50).map(|number| JobSpec::shell(format!("echo {number}")).build().unwrap()).collect();
    let jobs: Vec<_> = hodei.submit_batch(specs).await.unwrap().into_iter().map(Result::unwrap).collect();
    for job in &jobs {
        assert_eq!(job.wait().await.unwrap().status(), JobStatus::Succeeded);
        assert!(job.logs().next().await.unwrap().is_some());
    }
    assert_eq!(hodei.list(JobFilter::default()).await.unwrap().jobs.len(), 50);
    hodei.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_may_not_be_written_is_waited_for() {
    let Some(server) = postgres::own() else { return };
    let hodei = Hodei::open(&server.database().await).await.unwrap();
    let job = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    assert_eq!(job.wait().await.unwrap().status(), JobStatus::Succeeded);
    // Away, then a standby, then a primary again.
    let restarted = AtomicBool::new(false);
    let submits = async {
        let mut jobs = Vec::new();
        while !restarted.load(Ordering::Relaxed) {
            match hodei.submit(JobSpec::command(["true"]).build().unwrap()).await {
                Ok(job) => jobs.push(job),
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
            SystemClock::default().sleep(Duration::from_millis(50)).await;
        }
        jobs
    };
    let jobs = std::thread::scope(|scope| {
        scope.spawn(|| {
            server.restart("standby", 2);
            restarted.store(true, Ordering::Relaxed);
        });
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(submits))
    });
    assert!(!jobs.is_empty());
    for job in jobs {
        assert_eq!(job.wait().await.unwrap().status(), JobStatus::Succeeded);
    }
    hodei.shutdown().await;
}
