//! A program with an embedded job queue: submits a job, follows its output and reads its result.
//!
//! Prints `exit 0: hello from a job`.
#![allow(clippy::print_stdout, reason = "an example")]

use hodei_sdk::port::{LogBody, LogStream};
use hodei_sdk::{Hodei, JobSpec, LogItem};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let hodei = Hodei::local().await?;
    let spec = JobSpec::shell("echo hello from $WHERE").env("WHERE", "a job").build()?;
    let job = hodei.submit(spec).await?;

    let (mut logs, mut output) = (job.logs(), Vec::new());
    while let Some(item) = logs.next().await? {
        if let LogItem::Record { record, .. } = item
            && let LogBody::Chunk { stream: LogStream::Stdout, bytes } = record.body
        {
            output.extend(bytes);
        }
    }

    let ended = job.wait().await?;
    let code = ended.ending().and_then(|ending| ending.run.as_ref()).and_then(|run| run.exit_code);
    print!("exit {}: {}", code.unwrap_or(-1), String::from_utf8_lossy(&output));
    hodei.shutdown().await;
    Ok(())
}
