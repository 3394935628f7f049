//! A platform on a PostgreSQL database that is misconfigured, read-only, restarting or disconnected.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/cutter.rs"]
mod cutter;
#[path = "support/postgres.rs"]
mod postgres;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use cutter::{Cut, Cutter};
use hodei_sdk::decision::{Aggregate, AggregateId, Decision, Score};
use hodei_sdk::event::Actor;
use hodei_sdk::id::{EventId, JobId, WorkerId};
use hodei_sdk::job::{JobInput, Submission, TenantId, step};
use hodei_sdk::port::{
    AuditRepository, Clock, ClockExt, CommitError, Fence, IdGenerator, JobFilter, JobRepository, Store, Write,
};
use hodei_sdk::time::Timestamp;
use hodei_sdk::{Error, Hodei, JobSpec, JobStatus, PostgresEventBus, PostgresStore, SystemClock, SystemIds};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

async fn refused(url: &str) -> String {
    match Hodei::open(url).await {
        Err(Error::Open(error)) => error.to_string(),
        other => panic!("{url}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_reports_the_problem_of_its_database() {
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
    // With tables that another role has created, no right to CREATE is needed.
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
async fn a_database_without_utf8_is_refused() {
    let Some(server) = postgres::server() else { return };
    for encoding in ["LATIN1", "SQL_ASCII", "WIN1252"] {
        let name = format!("{}_{}", encoding.to_lowercase(), std::process::id());
        let create = format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        server.run("postgres", &create).await;
        let said = refused(&server.url(&name)).await;
        assert!(said.contains(encoding) && said.contains("createdb --encoding UTF8"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanently_refused_result_ends_its_job_and_no_other() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let hodei = Hodei::open(&url).await.unwrap();
    let trigger = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.record LIKE '%poison%' THEN
                RAISE EXCEPTION 'no such character' USING ERRCODE = '22021';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON hodei.history FOR EACH ROW EXECUTE FUNCTION refuse()";
    server.run(url.rsplit('/').next().unwrap(), trigger).await;
    let spec = |number| match number % 10 {
        3 => JobSpec::command(["poison"]).build().unwrap(),
        _ => JobSpec::command(["true"]).build().unwrap(),
    };
    let jobs = hodei.submit_batch((0..40).map(spec).collect()).await.unwrap();
    for (number, job) in jobs.into_iter().enumerate() {
        let ended = SystemClock::default().timeout(Duration::from_secs(20), job.unwrap().wait()).await;
        let ended = ended.unwrap().unwrap();
        let why = format!("{:?}", ended.ending());
        match number % 10 {
            3 => assert!(why.contains("cannot be stored") && why.contains("no such character"), "{why}"),
            _ => assert_eq!(ended.status(), JobStatus::Succeeded, "{why}"),
        }
    }
    hodei.shutdown().await;
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
    assert_eq!(hodei.jobs().list(JobFilter::default()).await.unwrap().jobs.len(), 50);
    hodei.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_waits_for_a_read_only_database_to_become_writable() {
    let Some(server) = postgres::own() else { return };
    let hodei = Hodei::open(&server.database().await).await.unwrap();
    let job = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    assert_eq!(job.wait().await.unwrap().status(), JobStatus::Succeeded);
    // The server stops, starts as a standby, and is promoted.
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

fn new_id() -> Uuid {
    SystemIds::default().uuid(SystemClock::default().now())
}

fn written(decision: &Decision) -> Write {
    Write::of(decision, Actor::Client, || EventId::from_uuid(new_id()))
}

fn submitted(key: Option<&str>) -> Decision {
    let mut spec = JobSpec::command(["true"]);
    if let Some(key) = key {
        spec = spec.idempotency_key(key);
    }
    let (id, tenant) = (JobId::from_uuid(new_id()), TenantId::default());
    let submission = Submission { id, tenant, spec: Arc::new(spec.build().unwrap()), retry_of: None };
    step(None, JobInput::Submit(submission), Timestamp::from_micros(1)).unwrap()
}

fn assigned(decision: &Decision) -> Decision {
    let Aggregate::Job(job) = &decision.next else { unreachable!() };
    let worker = WorkerId::from_uuid(new_id());
    let input = JobInput::Assign { worker, dispatch: 1, score: Score::default() };
    step(Some(job), input, Timestamp::from_micros(2)).unwrap()
}

/// A store behind a proxy that cuts its connections, and the URL of the database.
struct Behind {
    url: String,
    cutter: Cutter,
    store: PostgresStore,
}

impl Behind {
    async fn new(server: &postgres::Server) -> Self {
        let url = server.database().await;
        let (base, database) = url.rsplit_once('/').unwrap();
        let port = base.rsplit_once(':').unwrap().1;
        let cutter = Cutter::before(port.parse().unwrap()).await;
        let through = format!("{}/{database}", base.replace(port, &cutter.port.to_string()));
        // One connection, so that the cut hits the one in use.
        let pool = PgPoolOptions::new().max_connections(1).test_before_acquire(false);
        let store = PostgresStore::from_pool(pool.connect(&through).await.unwrap()).await.unwrap();
        Self { url, cutter, store }
    }

    async fn commit(&self, writes: &[Write]) -> Vec<Result<(), CommitError>> {
        let committed = self.store.commit(Fence::None, writes);
        let committed = SystemClock::default().timeout(Duration::from_secs(20), committed).await;
        committed.expect("in time").unwrap()
    }

    /// Checks that each write is stored exactly once.
    async fn has(&self, writes: &[Write]) {
        for write in writes {
            let AggregateId::Job(job) = write.next.id() else { unreachable!() };
            let stored = self.store.jobs(&[job]).await.unwrap().remove(0).unwrap();
            let events = self.store.history(write.next.id()).await.unwrap();
            let mine = |id: &EventId| write.events.iter().any(|event| event.id == *id);
            let found = events.iter().filter(|event| mine(&event.id)).count();
            assert_eq!((found, stored.version()), (write.events.len(), write.next.version()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_during_a_commit_loses_and_duplicates_nothing() {
    let Some(server) = postgres::server() else { return };
    let behind = Behind::new(server).await;
    let none = (Cut::None, Cut::None);
    // Each cut follows a round without one, after which the connection has prepared the statements.
    for (cut_new, cut_next) in [
        none,
        (Cut::Request, Cut::None),
        none,
        (Cut::Answer, Cut::None),
        none,
        (Cut::None, Cut::Request),
        none,
        (Cut::None, Cut::Answer),
    ] {
        let decisions = [submitted(None), submitted(Some(&new_id().to_string())), submitted(None)];
        let new = decisions.each_ref().map(written);
        behind.cutter.cut(cut_new);
        assert_eq!(behind.commit(&new).await, [Ok(()), Ok(()), Ok(())]);
        assert!(behind.cutter.has_cut(), "{cut_new:?}");
        behind.has(&new).await;
        let next = decisions.each_ref().map(|decision| written(&assigned(decision)));
        if cut_next != Cut::None {
            // Another writer changed one of them.
            assert_eq!(behind.commit(&[written(&assigned(&decisions[2]))]).await, [Ok(())]);
        }
        behind.cutter.cut(cut_next);
        let outcomes = behind.commit(&next).await;
        assert!(behind.cutter.has_cut());
        let conflict = Err(CommitError::Conflict { actual: Some(next[2].next.version()) });
        let last = if cut_next == Cut::None { Ok(()) } else { conflict };
        assert_eq!(outcomes, [Ok(()), Ok(()), last]);
        behind.has(&next[..2]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_in_progress_on_a_lost_connection_is_awaited() {
    let Some(server) = postgres::server() else { return };
    let behind = Behind::new(server).await;
    for is_new in [false, true] {
        // After this, the connection has prepared both statements.
        let [first, second, third] = [submitted(None), submitted(None), submitted(None)];
        for write in [written(&first), written(&second), written(&assigned(&first))] {
            assert_eq!(behind.commit(&[write]).await, [Ok(())]);
        }
        // An update waits for a lock of its row, an insert for a lock of the table.
        let (write, lock) = match is_new {
            false => (written(&assigned(&second)), "BEGIN; SELECT 1 FROM hodei.jobs FOR UPDATE"),
            true => (written(&third), "BEGIN; LOCK TABLE hodei.events IN SHARE MODE"),
        };
        let mut holder = PgConnection::connect(&behind.url).await.unwrap();
        holder.execute(lock).await.unwrap();
        behind.cutter.cut(Cut::Wait);
        let writes = &[write];
        let release = async {
            SystemClock::default().sleep(Duration::from_millis(500)).await;
            holder.execute("COMMIT").await.unwrap();
        };
        let (outcomes, ()) = tokio::join!(behind.commit(writes), release);
        assert_eq!(outcomes, [Ok(())]);
        assert!(behind.cutter.has_cut());
        behind.has(writes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_assigned_while_others_submit_without_a_pause() {
    let Some(server) = postgres::server() else { return };
    let hodei = Hodei::open(&server.database().await).await.unwrap();
    let warm = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    warm.wait().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut submitters = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (hodei, stop) = (hodei.clone(), stop.clone());
        submitters.spawn(async move {
            let later = SystemClock::default().now() + Duration::from_secs(3600);
            while !stop.load(Ordering::Relaxed) {
                hodei.submit(JobSpec::command(["true"]).not_before(later).build().unwrap()).await.unwrap();
            }
        });
    }
    let clock = SystemClock::default();
    clock.sleep(Duration::from_millis(300)).await;
    for _ in 0..5 {
        let job = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
        let ended = clock.timeout(Duration::from_secs(2), job.wait()).await.expect("it is assigned in time");
        assert_eq!(ended.unwrap().status(), JobStatus::Succeeded);
    }
    stop.store(true, Ordering::Relaxed);
    submitters.join_all().await;
    hodei.shutdown().await;
}

/// Returns the server processes that serve connections of platforms.
async fn backends(direct: &mut PgConnection) -> Vec<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'hodei' \
               ORDER BY pid";
    sqlx::query_scalar(sql).fetch_all(direct).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_read_does_not_close_its_connection() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let store = PostgresStore::connect(&url).await.unwrap();
    let mut direct = PgConnection::connect(&url).await.unwrap();
    let wanted = [JobId::from_uuid(new_id())];
    store.jobs(&wanted).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        {
            let mut read = std::pin::pin!(store.jobs(&wanted));
            // The query is sent, and the future is dropped before its answer.
            let _ = std::future::poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await;
        }
        assert_eq!(store.jobs(&wanted).await.unwrap(), [None]);
        seen.extend(backends(&mut direct).await);
    }
    assert!(seen.len() <= 16, "a cancelled read costs no connection: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_read_only_server_is_not_reused() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let name = url.rsplit('/').next().unwrap();
    let store = PostgresStore::connect(&url).await.unwrap();
    let mut direct = PgConnection::connect(&url).await.unwrap();
    server.run(name, &format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    // New connections are read-only, like those to a former primary.
    let gone = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                AND application_name = 'hodei'";
    direct.execute(gone).await.unwrap();
    assert_eq!(store.jobs(&[JobId::from_uuid(new_id())]).await.unwrap(), [None]);
    let reset = format!("ALTER DATABASE {name} RESET ALL");
    direct.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(reset))).await.unwrap();
    let events = [written(&submitted(None)).events[0].clone()];
    let outcomes = [store.record(&events).await.is_ok(), store.record(&events).await.is_ok()];
    assert_eq!(outcomes, [false, true], "the next connection is writable");
}

#[test]
fn a_store_may_outlive_its_runtime() {
    let Some(server) = postgres::server() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let store = runtime.block_on(async {
        let store = PostgresStore::connect(&server.database().await).await.unwrap();
        let wanted = [JobId::from_uuid(new_id())];
        let (one, two) = tokio::join!(store.jobs(&wanted), store.jobs(&wanted));
        assert_eq!((one.unwrap(), two.unwrap()), (vec![None], vec![None]));
        store
    });
    drop(runtime);
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_readers_than_connections_take_turns() {
    let Some(server) = postgres::server() else { return };
    let url = server.database().await;
    let store = Arc::new(PostgresStore::connect(&url).await.unwrap());
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let store = store.clone();
        readers.spawn(async move {
            let wanted = [JobId::from_uuid(new_id())];
            for _ in 0..50 {
                // A read that gets no connection fails after 5 s.
                assert_eq!(store.jobs(&wanted).await.unwrap(), [None]);
            }
        });
    }
    readers.join_all().await;
    let mut direct = PgConnection::connect(&url).await.unwrap();
    let open = backends(&mut direct).await;
    assert!((1..=8).contains(&open.len()), "{open:?}");
}
