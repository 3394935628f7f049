//! Measures durable submits. The baseline on SQLite is a loop of raw inserts into one table by the same driver with the
//! same settings, with a transaction for as many rows as a batch has jobs. On the PostgreSQL of `DATABASE_URL`, if it
//! is set, the baseline is `pgbench` with as many clients, each with one row at a time.
//!
//! `submits [JOBS [ROUNDS]]`; 100,000 and 3 by default.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement of real time")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use hodei_benches::{Failure, Kept, Place, Targets, median, numbers};
use hodei_sdk::port::IdGenerator;
use hodei_sdk::{Hodei, JobSpec, SystemIds};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

/// Number of jobs in a batch, and of rows in a transaction.
const BATCH_JOBS: usize = 1000;
/// Number of concurrent clients, each with one job at a time.
const CLIENT_COUNT: usize = 32;

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let [jobs, rounds] = numbers([100_000, 3])?;
    let (mut raw, mut batched, mut single, mut many) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let dir = tempfile::tempdir_in("target")?;
        raw.push(raw_inserts(dir.path(), jobs, BATCH_JOBS).await?);
        batched.push(submits(Kept::Sqlite, jobs).await?);
        single.push(raw_inserts(dir.path(), jobs / 50, 1).await?);
        many.push(clients(Kept::Sqlite, jobs / 5).await?);
    }
    let (raw, batched, single, many) = (median(&raw), median(&batched), median(&single), median(&many));
    let mut targets = Targets::default();
    println!("medians of {rounds} rounds, per second");
    println!("raw inserts, {BATCH_JOBS} a transaction      {raw:7.0}");
    let met = targets.check("batched submits", batched / raw >= 0.5);
    println!(
        "submits, {BATCH_JOBS} a batch                {batched:7.0}  {:.2} (at least 0.50: {met})",
        batched / raw
    );
    println!("raw inserts, one a transaction       {single:7.0}");
    println!("submits of {CLIENT_COUNT} clients, one by one    {many:7.0}  {:.2} of that", many / single);
    if Kept::all().contains(&Kept::Postgres) {
        beside_pgbench(jobs, rounds, &mut targets).await?;
    }
    Ok(targets.exit())
}

/// Measures submits on PostgreSQL and their baseline.
async fn beside_pgbench(jobs: usize, rounds: usize, targets: &mut Targets) -> Result<(), Failure> {
    let (mut raw, mut batched, mut many) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        raw.push(pgbench().await?);
        batched.push(submits(Kept::Postgres, jobs).await?);
        many.push(clients(Kept::Postgres, jobs / 5).await?);
    }
    let (raw, batched, many) = (median(&raw), median(&batched), median(&many));
    println!("pgbench inserts of {CLIENT_COUNT} clients           {raw:7.0}");
    let met = targets.check("submits on PostgreSQL", many / raw >= 0.8);
    println!(
        "submits of {CLIENT_COUNT} clients, PostgreSQL    {many:7.0}  {:.2} of that (at least 0.80: {met})",
        many / raw
    );
    println!("submits, {BATCH_JOBS} a batch, PostgreSQL    {batched:7.0}  {:.2} of that", batched / raw);
    Ok(())
}

/// Measures transactions of one insert each, by as many clients as submit; returns inserts per second.
async fn pgbench() -> Result<f64, Failure> {
    let place = Kept::Postgres.place().await?;
    let mut connection = sqlx::PgConnection::connect(&place.url).await?;
    // The spec is a default value, since pgbench takes a colon in a script for a variable.
    let table = format!(
        "CREATE TABLE jobs (id uuid NOT NULL PRIMARY KEY, state text NOT NULL, spec text NOT NULL DEFAULT '{}')",
        serde_json::to_string(&spec()?)?
    );
    sqlx::query(sqlx::AssertSqlSafe(table)).execute(&mut connection).await?;
    connection.close().await?;
    let script = place.dir.path().join("insert.sql");
    std::fs::write(&script, "INSERT INTO jobs (id, state) VALUES (gen_random_uuid(), 'PENDING');\n")?;
    let clients = CLIENT_COUNT.to_string();
    let mut command = std::process::Command::new("pgbench");
    command.args(["-n", "-M", "prepared", "-c", &clients, "-j", "2", "-T", "5", "-f"]);
    let out = command.arg(&script).arg(&place.url).output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    tps.ok_or_else(|| format!("pgbench: {text}{}", String::from_utf8_lossy(&out.stderr)).into())
}

fn spec() -> Result<JobSpec, Failure> {
    Ok(JobSpec::command(["true"]).build()?)
}

/// Inserts rows into one SQLite table; returns rows per second.
async fn raw_inserts(dir: &Path, rows: usize, batch: usize) -> Result<f64, Failure> {
    let options = SqliteConnectOptions::new()
        .filename(dir.join(format!("raw-{batch}.db")))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging();
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await?;
    let table = "CREATE TABLE jobs (id BLOB NOT NULL PRIMARY KEY, state TEXT NOT NULL, spec TEXT NOT NULL) WITHOUT ROWID";
    sqlx::query(table).execute(&mut connection).await?;
    let (ids, spec) = (SystemIds::default(), serde_json::to_string(&spec()?)?);
    let at = hodei_sdk::time::Timestamp::from_micros(1_800_000_000_000_000);
    let start = Instant::now();
    for _ in 0..rows / batch {
        let mut transaction = connection.begin().await?;
        for _ in 0..batch {
            let query = sqlx::query("INSERT INTO jobs VALUES (?, 'PENDING', ?)");
            query.bind(ids.uuid(at).as_bytes().to_vec()).bind(&spec).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
    }
    let rate = rows as f64 / start.elapsed().as_secs_f64();
    connection.close().await?;
    Ok(rate)
}

/// Opens a store on which no other platform works. It has a provider, from a first start.
async fn store(kept: Kept) -> Result<(Hodei, Place), Failure> {
    let (first, place) = kept.open().await?;
    first.shutdown().await;
    let hodei = Hodei::builder().url(&place.url).passive().start().await?;
    Ok((hodei, place))
}

/// Submits jobs in batches; returns jobs per second.
async fn submits(kept: Kept, jobs: usize) -> Result<f64, Failure> {
    let (hodei, _place) = store(kept).await?;
    let start = Instant::now();
    for _ in 0..jobs / BATCH_JOBS {
        let specs = (0..BATCH_JOBS).map(|_| spec()).collect::<Result<_, _>>()?;
        for job in hodei.submit_batch(specs).await? {
            job?;
        }
    }
    let rate = jobs as f64 / start.elapsed().as_secs_f64();
    hodei.shutdown().await;
    Ok(rate)
}

/// Submits jobs one by one from concurrent clients; returns jobs per second.
async fn clients(kept: Kept, jobs: usize) -> Result<f64, Failure> {
    let (hodei, _place) = store(kept).await?;
    let spec = spec()?;
    let start = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENT_COUNT {
        let (hodei, spec) = (hodei.clone(), spec.clone());
        clients.spawn(async move {
            for _ in 0..jobs / CLIENT_COUNT {
                hodei.submit(spec.clone()).await?;
            }
            Ok::<_, hodei_sdk::Error>(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    let rate = jobs as f64 / start.elapsed().as_secs_f64();
    hodei.shutdown().await;
    Ok(rate)
}
