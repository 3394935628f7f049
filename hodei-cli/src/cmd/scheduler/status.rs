//! `hodei scheduler status`: shows the queue.

use std::time::Duration;

use hodei_sdk::QueueStatus;
use hodei_sdk::worker::LimitHold;
use serde_json::json;

use crate::error::CliError;
use crate::target::Target;
use crate::term::show::{Format, lines, print, table, visible};

/// Lag of the feed from which it is reported.
const FEED_LAG_REPORTED: Duration = Duration::from_secs(1);

pub(super) async fn run(target: &Target, format: Format) -> Result<u8, CliError> {
    let queue = target.open(None).await?.queue().status().await?;
    status(&queue, format).map(|()| 0)
}

fn status(queue: &QueueStatus, format: Format) -> Result<(), CliError> {
    if format == Format::Json {
        let waiting = queue.waiting.iter().map(|class| {
            json!({ "head": class.head.map(|head| head.to_string()), "jobs": class.jobs, "why": class.cause.as_str() })
        });
        let waiting: Vec<_> = waiting.collect();
        let (queued, open, lag) = (queue.queued, queue.open, queue.feed_lag.as_secs_f64());
        let (troubles, limits) = (&queue.troubles, queue.limits.map(LimitHold::as_str));
        let mut status = json!({
            "queued": queued, "open": open, "waiting": waiting, "feed_lag_seconds": lag, "troubles": troubles,
            "limits": limits,
        });
        if let Some(fault) = &queue.fault {
            status["fault"] = json!(fault);
        }
        return print(&format!("{status}\n"));
    }
    let jobs = if queue.open == 1 { "job is" } else { "jobs are" };
    print(&format!("{} {jobs} open, {} of them waiting for a worker.\n", queue.open, queue.queued))?;
    if queue.feed_lag >= FEED_LAG_REPORTED {
        let lag = queue.feed_lag;
        print(&format!(
            "The feed of events is {lag:.0?} behind: a transaction has been open in the database for that long.\n"
        ))?;
    }
    for why in &queue.troubles {
        print(&format!("{}.\n", visible(why)))?;
    }
    if let Some(fault) = &queue.fault {
        print(&format!("The scheduler fails: {fault}.\n"))?;
    }
    if queue.waiting.is_empty() {
        return Ok(());
    }
    let mut table = table(&["JOBS", "FIRST", "WAIT BECAUSE"]);
    for class in &queue.waiting {
        let head = class.head.map_or_else(|| "-".to_owned(), |head| head.to_string());
        table.add_row([class.jobs.to_string(), head, class.cause.as_str().to_owned()]);
    }
    print(&lines(&table))
}
