//! Several daemons on one PostgreSQL: real programs, killed and stopped while they work.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "../../hodei-sdk/tests/support/nats.rs"]
mod nats;
#[path = "../../hodei-sdk/tests/support/postgres.rs"]
mod postgres;
#[path = "support/programs.rs"]
mod programs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use hodei_sdk::port::{FeedCursor, JobFilter, LogBody};
use hodei_sdk::{ConnectOptions, Hodei, JobHandle, JobSpec, JobStatus, LogItem};
use programs::Daemon;
use rustix::process::{Signal, kill_process};

/// Bounds the number of clusters at once, which each start many processes.
static CLUSTERS: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(2);

/// Daemons on one database, which share a directory for their token and the spools of their agents.
struct Cluster {
    dir: tempfile::TempDir,
    store: String,
    more: &'static [&'static str],
    daemons: Vec<Daemon>,
    _turn: tokio::sync::SemaphorePermit<'static>,
}

impl Cluster {
    async fn start(server: &postgres::Server, daemons: usize) -> Self {
        Self::over(server.database().await, daemons, &[]).await
    }

    async fn over(store: String, daemons: usize, more: &'static [&'static str]) -> Self {
        let turn = CLUSTERS.acquire().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Self { dir, store, more, daemons: Vec::new(), _turn: turn };
        for _ in 0..daemons {
            cluster.daemons.push(cluster.daemon(0));
        }
        cluster
    }

    fn daemon(&self, port: u16) -> Daemon {
        let arguments = ["--slots", "4", "--max-workers", "8", "--heartbeat", "300ms", "--lease", "4s"];
        let more = ["--daemon-lease", "3s", "--store", &self.store];
        Daemon::start(self.dir.path(), port, &[&arguments[..], &more[..], self.more].concat())
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Connects a client to all daemons; it uses the one with the number `first` first.
    async fn connect(&self, first: usize) -> Hodei {
        let mut urls: Vec<String> = self.daemons.iter().map(|daemon| daemon.url.clone()).collect();
        let count = urls.len();
        urls.rotate_left(first % count);
        let token_file = Some(self.path().join("token"));
        let patience = Duration::from_secs(60);
        let options = ConnectOptions { urls, token_file, patience, ..ConnectOptions::new("") };
        Hodei::connect_with(options).await.unwrap()
    }
}

async fn output(job: &JobHandle) -> String {
    let (mut text, mut logs) = (Vec::new(), job.logs());
    while let Some(item) = logs.next().await.unwrap() {
        match item {
            LogItem::Record { record, .. } => match record.body {
                LogBody::Chunk { bytes, .. } => text.extend_from_slice(&bytes),
                LogBody::Gap(_) => text.extend_from_slice(b"[gap]"),
            },
            LogItem::Torn { .. } => text.extend_from_slice(b"[torn]"),
        }
    }
    String::from_utf8(text).unwrap()
}

/// Jobs that record each start in a file, and print lines while they run.
struct Witnesses {
    starts: PathBuf,
}

/// Output of each job.
const PRINTED: &str = "line 1\nline 2\nline 3\nline 4\n";

impl Witnesses {
    fn new(dir: &Path) -> Self {
        Self { starts: dir.join("starts") }
    }

    async fn submit(&self, hodei: &Hodei, count: usize) -> Vec<JobHandle> {
        let line = format!(
            "echo $HODEI_JOB_ID >> {}; for i in 1 2 3 4; do echo line $i; sleep 0.05; done",
            self.starts.display()
        );
        let specs = (0..count).map(|_| JobSpec::shell(&line).build().unwrap()).collect();
        hodei.submit_batch(specs).await.unwrap().into_iter().map(Result::unwrap).collect()
    }

    /// Returns the number of starts of each job.
    fn starts(&self) -> BTreeMap<String, usize> {
        let mut starts = BTreeMap::new();
        for id in std::fs::read_to_string(&self.starts).unwrap().lines() {
            *starts.entry(id.to_owned()).or_insert(0) += 1;
        }
        starts
    }
}

async fn all_ran_once(hodei: &Hodei, jobs: &[JobHandle], witnesses: &Witnesses) {
    for job in jobs {
        let ended = job.wait().await.unwrap();
        // An attempt that a worker returned never started.
        let given_back = ended.tally().uncharged;
        if (ended.status(), ended.attempt() - given_back) != (JobStatus::Succeeded, 1) {
            let history = hodei.jobs().history(job.id()).await.unwrap();
            let told = history.iter().map(|told| format!("{} {:?}", told.at, told.event));
            panic!("{}:\n{}", job.id(), told.collect::<Vec<_>>().join("\n"));
        }
        assert_eq!(output(job).await, PRINTED);
    }
    let starts = witnesses.starts();
    assert!(jobs.iter().all(|job| starts.get(&job.id().to_string()) == Some(&1)), "each job ran once");
}

async fn eight_agents_at_once(hodei: &Hodei) {
    let specs = (0..32).map(|_| JobSpec::command(["sleep", "3"]).build().unwrap()).collect();
    let jobs: Vec<_> = hodei.submit_batch(specs).await.unwrap().into_iter().map(Result::unwrap).collect();
    let until = Instant::now() + Duration::from_secs(20);
    while hodei.workers().list().await.unwrap().len() < 8 {
        assert!(Instant::now() < until, "{:?}", hodei.workers().list().await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for job in jobs {
        assert_eq!(job.wait().await.unwrap().status(), JobStatus::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_costs_its_own_jobs_one_attempt_and_no_other_job() {
    let Some(server) = postgres::server() else { return };
    let cluster = Cluster::start(server, 3).await;
    let hodei = cluster.connect(0).await;
    let specs = (0..24).map(|_| JobSpec::shell("sleep 3").build().unwrap()).collect();
    let jobs: Vec<_> = hodei.submit_batch(specs).await.unwrap().into_iter().map(Result::unwrap).collect();
    let until = Instant::now() + Duration::from_secs(20);
    let mut workers = Vec::new();
    while workers.len() < jobs.len() {
        assert!(Instant::now() < until, "{} of {} run", workers.len(), jobs.len());
        let running = JobFilter { statuses: vec![JobStatus::Running], ..JobFilter::default() };
        let running = hodei.jobs().list(running).await.unwrap().jobs;
        workers = running.iter().filter_map(|job| Some((job.id(), job.worker()?))).collect();
    }
    let victim = workers[0].1;
    kill_process(programs::agent_of(victim), Signal::KILL).unwrap();
    for (id, worker) in workers {
        let ended = hodei.jobs().watch(id).ended().await.unwrap();
        let attempts = if worker == victim { 2 } else { 1 };
        assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, attempts));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_killed_in_turn_lose_no_job_and_repeat_none() {
    let Some(server) = postgres::server() else { return };
    let mut cluster = Cluster::start(server, 3).await;
    let witnesses = Witnesses::new(cluster.path());
    let kills: usize = std::env::var("HODEI_CLUSTER_KILLS").map_or(3, |kills| kills.parse().unwrap());
    let last = cluster.connect(0).await;
    eight_agents_at_once(&last).await;
    let mut jobs = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..kills {
        let victim = round % 3;
        let hodei = cluster.connect(round + 1).await;
        let some = witnesses.submit(&hodei, 60).await;
        let early = some[0].clone();
        let follower = tokio::spawn(async move { output(&early).await });
        tokio::time::sleep(Duration::from_millis(300 + 137 * round as u64 % 400)).await;
        cluster.daemons[victim].kill();
        // The new coordinator must take this job up as well.
        let killed = Instant::now();
        let next = witnesses.submit(&hodei, 1).await;
        next[0].wait().await.unwrap();
        slowest = slowest.max(killed.elapsed());
        let port = cluster.daemons[victim].port();
        cluster.daemons[victim] = cluster.daemon(port);
        assert_eq!(follower.await.unwrap(), PRINTED, "a follower goes on with another daemon");
        jobs.extend(some.into_iter().chain(next));
    }
    all_ran_once(&last, &jobs, &witnesses).await;
    assert!(slowest < Duration::from_secs(10), "it took {slowest:?} to go on");
    println!("{kills} daemons killed: {} jobs, each ran once; it went on within {slowest:?}", jobs.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_runs_no_job_twice() {
    let Some(server) = postgres::server() else { return };
    let mut cluster = Cluster::start(server, 2).await;
    let witnesses = Witnesses::new(cluster.path());
    let hodei = cluster.connect(0).await;
    let jobs = witnesses.submit(&hodei, 120).await;
    for number in 0..2 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let port = cluster.daemons[number].port();
        cluster.daemons[number].signal(Signal::TERM);
        assert_eq!(cluster.daemons[number].ended(Duration::from_secs(10)), Some(0));
        cluster.daemons[number] = cluster.daemon(port);
    }
    all_ran_once(&hodei, &jobs, &witnesses).await;
    // The feed of all events is complete, from any daemon.
    let (mut count, mut after) = (0, FeedCursor::default());
    let deadline = Instant::now() + Duration::from_secs(20);
    while count < jobs.len() {
        let page = hodei.events().read(&after, 500).await.unwrap();
        count += page.events.iter().filter(|event| event.event.ends_job()).count();
        after = page.next;
        assert!(Instant::now() < deadline, "{count} ends in the feed");
    }
    assert_eq!(count, jobs.len());
}

/// Runs jobs while `fault` disturbs the database, and others after it; returns the time until the first of those ended.
async fn goes_on_after(cluster: &Cluster, witnesses: &Witnesses, fault: impl AsyncFnOnce()) -> Duration {
    let hodei = cluster.connect(0).await;
    let jobs = witnesses.submit(&hodei, 40).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    fault().await;
    let back = Instant::now();
    let next = witnesses.submit(&hodei, 1).await;
    next[0].wait().await.unwrap();
    let took = back.elapsed();
    all_ran_once(&hodei, &jobs, witnesses).await;
    all_ran_once(&hodei, &next, witnesses).await;
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_restarts_or_goes_away_costs_no_job_a_second_run() {
    let Some(server) = postgres::own() else { return };
    let cluster = Cluster::start(&server, 2).await;
    let witnesses = Witnesses::new(cluster.path());
    let long: &[(&str, u32)] =
        &[("fast", 0), ("immediate", 0), ("immediate", 3), ("standby", 5), ("fast", 20)];
    let is_long = std::env::var_os("HODEI_CLUSTER_KILLS").is_some();
    for (how, away) in
        if is_long { long } else { &[("fast", 0), ("immediate", 0), ("standby", 5), ("fast", 3)] }
    {
        let fault = async || tokio::task::block_in_place(|| server.restart(how, *away));
        let took = goes_on_after(&cluster, &witnesses, fault).await;
        assert!(took < Duration::from_secs(10), "{how} {away}: it took {took:?} to go on");
        println!("a database stopped {how} for {away} s: it went on within {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_cost_no_attempt() {
    let Some(server) = postgres::own() else { return };
    let cluster = Cluster::start(&server, 2).await;
    let witnesses = Witnesses::new(cluster.path());
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name LIKE 'hodei%' AND pid <> pg_backend_pid() AND random() < 0.5";
    let fault = async || {
        for _ in 0..40 {
            server.run("postgres", cut).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let took = goes_on_after(&cluster, &witnesses, fault).await;
    assert!(took < Duration::from_secs(10), "it took {took:?} to go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_work_without_hints() {
    let Some(server) = postgres::server() else { return };
    let cluster = Cluster::over(server.database().await, 3, &["--hints", "none"]).await;
    let witnesses = Witnesses::new(cluster.path());
    for number in 0..3 {
        let hodei = cluster.connect(number).await;
        let jobs = witnesses.submit(&hodei, 20).await;
        all_ran_once(&hodei, &jobs, &witnesses).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_work_with_hints_over_nats() {
    let (Some(server), Some(mut nats)) = (postgres::server(), nats::Nats::with_streams()) else { return };
    let url: &'static str = Box::leak(nats.url().into_boxed_str());
    let more = Vec::leak(vec!["--hints", url, "--events", url]);
    let cluster = Cluster::over(server.database().await, 3, more).await;
    let witnesses = Witnesses::new(cluster.path());
    for number in 0..3 {
        let hodei = cluster.connect(number).await;
        let jobs = witnesses.submit(&hodei, 40).await;
        if number == 1 {
            nats.down();
        } else if number == 2 {
            nats.up();
        }
        all_ran_once(&hodei, &jobs, &witnesses).await;
    }
    // Stops the daemon that may be relaying events.
    cluster.daemons[0].signal(Signal::TERM);
    let stream = jetstream::new(async_nats::connect(url).await.unwrap());
    let stored = sqlx::PgPool::connect(&cluster.store).await.unwrap();
    let store: String =
        sqlx::query_scalar("SELECT store_id::text FROM hodei.store").fetch_one(&stored).await.unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let events: i64 =
            sqlx::query_scalar("SELECT count(*) FROM hodei.events").fetch_one(&stored).await.unwrap();
        let found = stream.get_stream(format!("hodei-{store}")).await;
        let messages = found.map_or(0, |stream| stream.cached_info().state.messages);
        if messages == events as u64 {
            break;
        }
        assert!(Instant::now() < until, "{messages} messages of {events} events");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_work_behind_a_pooler() {
    let Some(server) = postgres::server() else { return };
    let Some(bouncer) = postgres::Bouncer::start(server) else { return };
    let direct = server.database().await;
    let store = bouncer.url(direct.rsplit('/').next().unwrap());
    let hints: &'static str = Box::leak(direct.into_boxed_str());
    let cluster = Cluster::over(store, 2, Vec::leak(vec!["--hints", hints])).await;
    let witnesses = Witnesses::new(cluster.path());
    for number in 0..2 {
        let hodei = cluster.connect(number).await;
        let jobs = witnesses.submit(&hodei, 40).await;
        all_ran_once(&hodei, &jobs, &witnesses).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_transaction_delays_no_daemon() {
    let Some(server) = postgres::own() else { return };
    let cluster = Cluster::start(&server, 1).await;
    let hodei = cluster.connect(0).await;
    use sqlx::Connection;
    let mut other = sqlx::PgConnection::connect(&cluster.store).await.unwrap();
    let mut held = other.begin().await.unwrap();
    sqlx::query("SELECT pg_current_xact_id()").execute(&mut *held).await.unwrap();
    let start = Instant::now();
    let specs = (0..1000).map(|_| JobSpec::command(["true"]).build().unwrap()).collect();
    for job in hodei.submit_batch(specs).await.unwrap() {
        assert_eq!(job.unwrap().wait().await.unwrap().status(), JobStatus::Succeeded);
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(25), "a thousand jobs took {took:?}");
    // Only the feed waits for the transaction, and reports its lag.
    assert!(hodei.events().read(&FeedCursor::default(), 1000).await.unwrap().events.len() < 900);
    assert!(hodei.queue().status().await.unwrap().feed_lag > Duration::ZERO);
    held.rollback().await.unwrap();
    let (mut ends, mut after) = (0, FeedCursor::default());
    while ends < 1000 {
        let page = hodei.events().read(&after, 1000).await.unwrap();
        ends += page.events.iter().filter(|event| event.event.ends_job()).count();
        after = page.next;
        assert!(start.elapsed() < Duration::from_secs(60), "{ends} ends in the feed");
    }
    assert_eq!(ends, 1000);
}
