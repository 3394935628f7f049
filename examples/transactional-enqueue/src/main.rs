//! Stores a row and submits its job in one transaction: both are committed, or neither.
//!
//! `transactional-enqueue postgres://USER@HOST/DATABASE`. Prints `2 orders, 2 jobs: packed a book, packed a lamp`.
#![allow(clippy::print_stdout, reason = "an example")]

use hodei_sdk::id::JobId;
use hodei_sdk::port::LogBody;
use hodei_sdk::{Hodei, JobSpec, LogItem, PostgresEventBus, PostgresStore};
use sqlx::postgres::PgPool;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let url =
        std::env::args().nth(1).ok_or("no database given: name one as postgres://USER@HOST/DATABASE")?;
    // The program's own pool, which the platform uses as well.
    let pool = PgPool::connect(&url).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS orders (item text NOT NULL)").execute(&pool).await?;
    let store = PostgresStore::from_pool(pool.clone()).await?;
    let bus = PostgresEventBus::connect(&url).await?;
    let hodei = Hodei::builder().postgres(store.clone(), bus).start().await?;

    let book = order(&pool, &store, "a book", true).await?;
    let nothing = order(&pool, &store, "a mistake", false).await?;
    let lamp = order(&pool, &store, "a lamp", true).await?;

    // The rolled back transaction left no job.
    assert!(hodei.jobs().get(nothing).await.is_err());
    let mut packed = Vec::new();
    for id in [book, lamp] {
        let job = hodei.job(id);
        job.wait().await?;
        packed.push(format!("packed {}", output(&hodei, id).await?.trim()));
    }
    let orders: i64 = sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(&pool).await?;
    println!("{orders} orders, {} jobs: {}", packed.len(), packed.join(", "));
    hodei.shutdown().await;
    sqlx::query("DROP TABLE orders").execute(&pool).await?;
    Ok(())
}

/// Stores an order and submits its job in one transaction.
async fn order(pool: &PgPool, store: &PostgresStore, item: &str, commit: bool) -> Result<JobId> {
    let mut tx = pool.begin().await?;
    sqlx::query("INSERT INTO orders (item) VALUES ($1)").bind(item).execute(&mut *tx).await?;
    let job = store.submit_in(&mut tx, JobSpec::command(["echo", item]).build()?).await?;
    if commit {
        tx.commit().await?
    } else {
        tx.rollback().await?
    }
    Ok(job)
}

async fn output(hodei: &Hodei, id: JobId) -> Result<String> {
    let (mut logs, mut text) = (hodei.jobs().logs(id), Vec::new());
    while let Some(item) = logs.next().await? {
        if let LogItem::Record { record, .. } = item
            && let LogBody::Chunk { bytes, .. } = record.body
        {
            text.extend_from_slice(&bytes);
        }
    }
    Ok(String::from_utf8(text)?)
}
