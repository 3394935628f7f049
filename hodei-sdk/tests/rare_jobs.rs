//! Lists among very many ended jobs: as fast as among few, and cancelled with their callers.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real time")]

#[path = "support/postgres.rs"]
mod postgres;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hodei_sdk::job::TenantId;
use hodei_sdk::port::{Clock, ClockExt, IdGenerator, JobFilter, JobRepository, Store};
use hodei_sdk::time::Timestamp;
use hodei_sdk::{DataDir, Hodei, JobSpec, JobStatus, PostgresStore, SqliteStore, SystemClock, SystemIds};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};

/// Number of ended jobs besides those of the test: `HODEI_ENDED`.
fn listed() -> u32 {
    std::env::var("HODEI_ENDED").ok().map_or(30_000, |count| count.parse().unwrap())
}

/// Runs three jobs, of which the first fails: the templates of all others.
async fn templates(hodei: &Hodei) {
    for (command, team) in [("false", "a"), ("true", "a"), ("true", "b")] {
        let spec = JobSpec::command([command]).label("team", team).label("kind", "test");
        hodei.submit(spec.build().unwrap()).await.unwrap().wait().await.unwrap();
    }
}

fn filter(statuses: &[JobStatus], labels: &[(&str, &str)], limit: usize) -> JobFilter {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    JobFilter { tenant: TenantId::default(), statuses: statuses.to_vec(), labels, limit, after: None }
}

/// Returns the shortest duration of several tries.
async fn quickest(store: &dyn Store, filter: &JobFilter, expected: usize) -> Duration {
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        assert_eq!(store.list_jobs(filter).await.unwrap().jobs.len(), expected, "{filter:?}");
        quickest = quickest.min(begun.elapsed());
    }
    quickest
}

/// Checks lists that would be slow if they read every job: rare jobs behind very many.
async fn rare_jobs_are_found_at_once(store: &dyn Store) {
    let newest = quickest(store, &filter(&[], &[], 1), 1).await;
    let limit = newest * 10 + Duration::from_millis(5);
    let (failed, lost) = (JobStatus::Failed, JobStatus::Cancelled);
    for (statuses, labels, expected) in [
        (&[failed][..], &[("team", "a")][..], 1),
        (&[failed], &[], 1),
        (&[failed], &[("team", "b")], 0),
        (&[lost, JobStatus::TimedOut], &[("kind", "test")], 0),
        (&[], &[("team", "nobody")], 0),
        (&[failed], &[("team", "a"), ("kind", "test")], 1),
        (&[JobStatus::Running, failed], &[("team", "a")], 1),
    ] {
        let took = quickest(store, &filter(statuses, labels, 50), expected).await;
        assert!(took < limit, "{statuses:?} {labels:?}: {took:?}, the newest in {newest:?}");
    }
    let all = store.list_jobs(&filter(&[], &[("kind", "test")], 2)).await.unwrap();
    assert!(all.jobs.len() == 2 && all.jobs[0].id() > all.jobs[1].id() && all.next == Some(all.jobs[1].id()));
    let rest = JobFilter { after: all.next, ..filter(&[JobStatus::Succeeded], &[("team", "a")], 3) };
    assert!(store.list_jobs(&rest).await.unwrap().jobs.iter().all(|job| Some(job.id()) < all.next));
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_finds_rare_jobs_among_very_many_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let hodei = Hodei::open(&format!("sqlite:{}", dir.path().display())).await.unwrap();
    templates(&hodei).await;
    hodei.shutdown().await;
    let file = dir.path().join("hodei.db");
    let mut database = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).connect().await.unwrap();
    // Successful jobs of both teams, later than the templates.
    let fill = format!(
        "CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT i FROM n;
         CREATE TEMP TABLE t AS SELECT jobs.*, spec, row_number() OVER (ORDER BY id) AS number FROM jobs JOIN specs ON job = id
             WHERE status = 4;
         BEGIN;
         INSERT INTO specs (job, spec) SELECT unhex('ff' || printf('%030x', i)), spec FROM n JOIN t ON number = i % 2 + 1;
         INSERT INTO jobs (id, tenant, version, status, ended_at, record)
             SELECT unhex('ff' || printf('%030x', i)), tenant, version, status, ended_at, record
             FROM n JOIN t ON number = i % 2 + 1;
         COMMIT;",
        listed()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(&mut database).await.unwrap();
    database.close().await.unwrap();
    let clock = SystemClock::default();
    let store = SqliteStore::open(
        Arc::new(DataDir::lock(dir.path()).unwrap()),
        SystemIds::default().uuid(clock.now()),
    );
    let store = store.await.unwrap();
    rare_jobs_are_found_at_once(&store).await;
    let before = store.list_jobs(&filter(&[], &[("team", "a")], 9)).await.unwrap().jobs;
    let gone: Vec<_> = before.iter().map(|job| job.id()).collect();
    store.forget(&gone, Timestamp::EPOCH).await.unwrap();
    let after = store.list_jobs(&filter(&[], &[("team", "a")], 9)).await.unwrap().jobs;
    assert!(after.iter().all(|job| !gone.contains(&job.id())), "deleted jobs are not listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_finds_rare_jobs_among_very_many_at_once() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let hodei = Hodei::open(&url).await.unwrap();
    templates(&hodei).await;
    hodei.shutdown().await;
    let mut database = PgConnection::connect(&url).await.unwrap();
    let fill = format!(
        "CREATE TEMP TABLE t AS SELECT h.*, s.spec, s.labels, row_number() OVER (ORDER BY id) AS number
             FROM hodei.history h JOIN hodei.specs s ON s.job = h.id WHERE status = 4;
         INSERT INTO hodei.specs (job, spec, labels) SELECT ('ff' || lpad(to_hex(i), 30, '0'))::uuid, spec, labels
             FROM generate_series(1, {0}) i JOIN t ON number = i % 2 + 1;
         INSERT INTO hodei.history (id, tenant, version, status, ended_at, record)
             SELECT ('ff' || lpad(to_hex(i), 30, '0'))::uuid, tenant, version, status, ended_at, record
             FROM generate_series(1, {0}) i JOIN t ON number = i % 2 + 1;
         ANALYZE;",
        listed()
    );
    database.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(fill))).await.unwrap();
    let store = PostgresStore::connect(&url).await.unwrap();
    rare_jobs_are_found_at_once(&store).await;
    store
        .forget(&[store.list_jobs(&filter(&[], &[], 1)).await.unwrap().jobs[0].id()], Timestamp::EPOCH)
        .await
        .unwrap();
    let left = "SELECT (SELECT count(*) FROM hodei.ended_labels) - 2 * (SELECT count(*) FROM hodei.history)";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&mut database).await.unwrap();
    assert_eq!(left, 0, "the labels of a deleted job are deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_list_does_not_keep_running_in_postgresql() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let store = PostgresStore::connect(&url).await.unwrap();
    let mut database = PgConnection::connect(&url).await.unwrap();
    // Every row takes a minute to read.
    database
        .execute(
            "CREATE FUNCTION slow() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN true; END $$;
             ALTER TABLE hodei.history RENAME TO kept;
             CREATE VIEW hodei.history AS SELECT * FROM hodei.kept WHERE slow();
             INSERT INTO hodei.kept VALUES (gen_random_uuid(), 'default', 1, 5, 0, '{}')",
        )
        .await
        .unwrap();
    let failed = filter(&[JobStatus::Failed], &[], 1);
    let list = store.list_jobs(&failed);
    let given_up = SystemClock::default().timeout(Duration::from_millis(300), list).await;
    assert!(given_up.is_err());
    let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%hodei.history%' \
                   AND pid <> pg_backend_pid() AND datname = current_database()";
    for _ in 0..100 {
        let running: i64 = sqlx::query_scalar(running).fetch_one(&mut database).await.unwrap();
        if running == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the statement is still running");
}
