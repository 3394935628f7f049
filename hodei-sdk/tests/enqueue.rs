//! Jobs that are submitted in a transaction of the user, on a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/postgres.rs"]
mod postgres;

use std::time::Duration;

use hodei_sdk::id::JobId;
use hodei_sdk::port::{Clock, ClockExt, JobFilter};
use hodei_sdk::{
    Error, FailureCause, Hodei, Job, JobSpec, JobStatus, Outcome, PostgresStore, Settings, SystemClock,
};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

/// Starts a platform without sweeps: it must be notified of enqueued jobs.
async fn platform(url: &str) -> Hodei {
    let mut settings = Settings::quick();
    settings.sweep = None;
    Hodei::builder().url(url).settings(settings).start().await.unwrap()
}

async fn pool(url: &str, connections: u32) -> PgPool {
    let options = PgPoolOptions::new().max_connections(connections).acquire_timeout(Duration::from_secs(5));
    options.connect(url).await.unwrap()
}

async fn ended(platform: &Hodei, id: JobId) -> std::sync::Arc<Job> {
    let mut watch = platform.jobs().watch(id);
    SystemClock::default().timeout(Duration::from_secs(20), watch.ended()).await.expect("it ends").unwrap()
}

fn echo() -> JobSpec {
    JobSpec::command(["echo", "hello"]).build().unwrap()
}

#[tokio::test]
async fn a_job_is_part_of_the_transaction_that_submits_it() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let hodei = platform(&url).await;
    let pool = pool(&url, 1).await;
    // The pool has one connection: no call needs a second.
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    let id = store.submit_in(&mut tx, echo()).await.unwrap();
    assert!(matches!(hodei.jobs().get(id).await, Err(Error::NotFound(_))), "not visible before the commit");
    tx.rollback().await.unwrap();
    assert!(matches!(hodei.jobs().get(id).await, Err(Error::NotFound(_))), "the rollback removed it");
    let mut tx = pool.begin().await.unwrap();
    let id = store.submit_in(&mut tx, echo()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ended(&hodei, id).await.status(), JobStatus::Succeeded);
    let names: Vec<_> =
        hodei.jobs().history(id).await.unwrap().iter().map(|told| told.event.name()).collect();
    assert_eq!(names[..2], ["JobCreated", "JobQueued"]);
    hodei.shutdown().await;
}

#[tokio::test]
async fn a_key_in_use_does_not_end_the_transaction() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let hodei = platform(&url).await;
    let pool = pool(&url, 4).await;
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let keyed = |word: &str| JobSpec::command(["echo", word]).idempotency_key("k").build().unwrap();
    let first = hodei.submit(keyed("one")).await.unwrap().id();
    let mut tx = pool.begin().await.unwrap();
    assert_eq!(store.submit_in(&mut tx, keyed("one")).await.unwrap(), first, "the same job");
    match store.submit_in(&mut tx, keyed("two")).await {
        Err(Error::AlreadyExists { existing, .. }) => assert_eq!(existing, first),
        other => panic!("{other:?}"),
    }
    let outside = JobSpec::command(["true"]).working_dir("../up").build().unwrap();
    assert_eq!(store.submit_in(&mut tx, outside).await.unwrap_err().field(), Some("working_dir"));
    match store.submit_in(&mut tx, JobSpec::command(["true"]).image("i").build().unwrap()).await {
        Err(Error::Unsupported(unsupported)) => assert_eq!(unsupported.field, "image"),
        other => panic!("{other:?}"),
    }
    let id = store.submit_in(&mut tx, echo()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ended(&hodei, id).await.status(), JobStatus::Succeeded);
    // Of two simultaneous transactions, one waits for the other and gets its job.
    let (mut one, mut two) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
    let other = JobSpec::command(["true"]).idempotency_key("l").build().unwrap();
    let id = store.submit_in(&mut one, other.clone()).await.unwrap();
    let waits = store.submit_in(&mut two, other);
    let (committed, found) = tokio::join!(one.commit(), waits);
    committed.unwrap();
    assert_eq!(found.unwrap(), id);
    hodei.shutdown().await;
}

async fn enqueue(pool: &PgPool, document: &str) -> Result<JobId, sqlx::Error> {
    let row =
        sqlx::query("SELECT hodei.enqueue($1::jsonb)").bind(document.to_owned()).fetch_one(pool).await?;
    Ok(JobId::from_uuid(row.try_get(0)?))
}

#[tokio::test]
async fn a_trigger_enqueues_jobs() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let hodei = platform(&url).await;
    let pool = pool(&url, 2).await;
    let trigger = "
        CREATE TABLE orders (item text, job uuid);
        CREATE FUNCTION pack() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.job := hodei.enqueue(jsonb_build_object('command', jsonb_build_array('echo', NEW.item)));
            RETURN NEW;
        END $$;
        CREATE TRIGGER pack BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION pack();";
    sqlx::raw_sql(AssertSqlSafe(trigger)).execute(&pool).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("INSERT INTO orders (item) VALUES ('gone')").execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    sqlx::query("INSERT INTO orders (item) SELECT 'book' || n FROM generate_series(1, 20) n")
        .execute(&pool)
        .await
        .unwrap();
    for row in sqlx::query("SELECT job FROM orders").fetch_all(&pool).await.unwrap() {
        let id = JobId::from_uuid(row.try_get(0).unwrap());
        assert_eq!(ended(&hodei, id).await.status(), JobStatus::Succeeded);
    }
    assert_eq!(
        hodei.jobs().list(JobFilter::default()).await.unwrap().jobs.len(),
        20,
        "no job of the rolled back transaction"
    );
    // Another role needs only USAGE of the schema.
    let role = format!("shop_{}", std::process::id());
    let grant = format!("CREATE ROLE {role}; GRANT USAGE ON SCHEMA hodei TO {role}; SET ROLE {role}");
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut *connection).await.unwrap();
    let put = "SELECT hodei.enqueue('{\"command\": [\"true\"]}')";
    let id: Uuid = sqlx::query_scalar(put).fetch_one(&mut *connection).await.unwrap();
    let look = sqlx::query("SELECT * FROM hodei.jobs").execute(&mut *connection).await;
    assert!(look.unwrap_err().to_string().contains("permission denied"));
    assert_eq!(ended(&hodei, JobId::from_uuid(id)).await.status(), JobStatus::Succeeded);
    hodei.shutdown().await;
}

#[tokio::test]
async fn an_invalid_document_is_refused_or_its_job_fails_with_the_reason() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let hodei = platform(&url).await;
    let pool = pool(&url, 2).await;
    let known =
        r#"{"shell": "touch a", "working_dir": "w", "inputs": [], "outputs": [], "keep_workspace": false}"#;
    enqueue(&pool, known).await.unwrap();
    let huge = format!(r#"{{"shell": "{}"}}"#, "x".repeat(5 << 20));
    for (document, why) in [
        ("[]", "a job is a JSON object"),
        (r#"{"comand": ["true"]}"#, "unknown field `comand`"),
        (r#"{"name": "n"}"#, "one of command, shell and script"),
        (r#"{"shell": "a", "script": "b"}"#, "one of command, shell and script"),
        (r#"{"id": "x", "shell": "a"}"#, "uuid"),
        (&huge, "the limit is 4 MiB"),
    ] {
        let error = enqueue(&pool, document).await.unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
    for (document, why) in [
        (r#"{"command": []}"#, "command"),
        (r#"{"shell": "a", "timeout": "soon"}"#, "`soon` is not a duration"),
        (r#"{"shell": "a", "labels": {"": "x"}}"#, "labels"),
    ] {
        // The job is readable at once, whether it has been accepted or not.
        let id = enqueue(&pool, document).await.unwrap();
        let job = hodei.jobs().get(id).await.unwrap();
        let ended = ended(&hodei, job.id()).await;
        match &ended.ending().unwrap().outcome {
            Outcome::Failed(FailureCause::Configuration(text)) => assert!(text.contains(why), "{text}"),
            other => panic!("{document}: {other:?}"),
        }
    }
    // The same id twice is one job; a key in use fails the second job.
    let id = "0197f3c6-7d2b-7000-8000-000000000001";
    let document = format!(r#"{{"id": "{id}", "shell": "true", "idempotency_key": "k"}}"#);
    let first = enqueue(&pool, &document).await.unwrap();
    assert_eq!((first.to_string(), ended(&hodei, first).await.status()), (id.into(), JobStatus::Succeeded));
    enqueue(&pool, &document).await.unwrap();
    let other = enqueue(&pool, r#"{"shell": "false", "idempotency_key": "k"}"#).await.unwrap();
    let ended = ended(&hodei, other).await;
    assert!(format!("{:?}", ended.ending()).contains(&format!("belongs to job {id}")), "{ended:?}");
    hodei.shutdown().await;
}

#[tokio::test]
async fn an_enqueue_of_an_invalid_job_fails_its_transaction() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let hodei = platform(&url).await;
    let pool = pool(&url, 1).await;
    let put = async |document: serde_json::Value| {
        let query = sqlx::query("SELECT hodei.enqueue($1::text::jsonb)").bind(document.to_string());
        query.fetch_one(&pool).await.map(|row| JobId::from_uuid(row.get(0)))
    };
    let long = "x".repeat(131_072);
    let id = |id: &str| serde_json::json!({ "id": id, "command": ["true"] });
    for (document, word) in [
        (id("00000000-0000-0000-0000-000000000000"), "version 7"),
        (id("9b2c3d4e-5f60-4718-92a3-b4c5d6e7f809"), "version 7"),
        (id("0fffffff-ffff-7fff-8fff-ffffffffffff"), "more than a day ahead"),
        (serde_json::json!({ "command": ["echo", long] }), "command has 131072 bytes"),
        (serde_json::json!({ "shell": long }), "shell has 131072 bytes"),
        (serde_json::json!({ "command": ["true"], "env": { "A": long } }), "env has 131074 bytes"),
        (serde_json::json!({ "command": ["true"], "resources": { "memory_bytes": 64 } }), "memory_bytes"),
        (serde_json::json!({ "command": ["true"], "resources": { "cpu_millis": 9 } }), "cpu_millis"),
    ] {
        let refused = put(document).await.unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
    }
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    let refused = store.submit_in(&mut tx, JobSpec::shell("x".repeat(131_072)).build().unwrap()).await;
    assert_eq!(refused.unwrap_err().field(), Some("shell"));
    tx.rollback().await.unwrap();
    // A limit that SQL cannot check fails the job.
    let all = put(serde_json::json!({ "command": vec!["x"; 200_000] })).await.unwrap();
    let job = ended(&hodei, all).await;
    let why = job.ending().unwrap().outcome.clone();
    assert!(
        matches!(&why, Outcome::Failed(FailureCause::Configuration(why)) if why.contains("1966080")),
        "{why:?}"
    );
    let own =
        JobId::from_uuid(uuid::Builder::from_unix_timestamp_millis(1_700_000_000_000, &[7; 10]).into_uuid());
    assert_eq!(put(id(&own.to_string())).await.unwrap(), own);
    assert_eq!(ended(&hodei, own).await.status(), JobStatus::Succeeded);
    // An entry with an id that is refused otherwise runs under a new id.
    let nil = "INSERT INTO hodei.inbox VALUES ('00000000-0000-0000-0000-000000000000', '{\"command\": [\"true\"], \"name\": \"nil\"}')";
    sqlx::query(nil).execute(&pool).await.unwrap();
    put(serde_json::json!({ "command": ["true"] })).await.unwrap();
    let clock = SystemClock::default();
    let found = clock.timeout(Duration::from_secs(20), async {
        loop {
            let page = hodei.jobs().list(JobFilter { limit: 20, ..JobFilter::default() }).await.unwrap();
            if let Some(job) = page.jobs.into_iter().find(|job| job.spec().given_name() == Some("nil")) {
                return job.id();
            }
            clock.sleep(Duration::from_millis(20)).await;
        }
    });
    let found = found.await.expect("it is accepted");
    assert!(!found.as_uuid().is_nil());
    assert_eq!(ended(&hodei, found).await.status(), JobStatus::Succeeded);
    hodei.shutdown().await;
}
