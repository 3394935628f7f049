//! tmp
#![allow(clippy::print_stdout, clippy::disallowed_methods)]
use hodei_benches::*;
use hodei_sdk::*;
use std::time::Instant;
#[tokio::main]
async fn main() -> Result<(), Failure> {
    let jobs = 6000;
    let (hodei, _dir) = Kept::Sqlite.open().await?;
    hodei.submit(JobSpec::command(["true"]).build()?).await?.wait().await?;
    let specs = (0..jobs).map(|_| JobSpec::command(["true"]).build()).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    let handles = hodei.submit_batch(specs).await?;
    println!("submitted {:?}", start.elapsed());
    for job in handles {
        job?.wait().await?;
    }
    println!("{}/s", jobs as f64 / start.elapsed().as_secs_f64());
    hodei.shutdown().await;
    std::fs::copy(_dir.path().join("hodei.db"), "/tmp/x.db")?;
    std::fs::copy(_dir.path().join("hodei.db-wal"), "/tmp/x.db-wal").ok();
    Ok(())
}
