//! `hodei worker list`: lists the workers of a daemon.

use hodei_sdk::Hodei;
use hodei_sdk::worker::WorkerView;
use serde_json::json;

use super::worker_json::worker_json;
use crate::error::CliError;
use crate::term::show::{Format, lines, print, seconds, table, tell, visible};

pub(super) async fn run(hodei: &Hodei, format: Format) -> Result<u8, CliError> {
    let workers = hodei.workers().list().await?;
    list(&workers, format)?;
    if workers.iter().all(|worker| !worker.connected) {
        // On stderr, since standard output has the list.
        hodei.queue().status().await?.troubles.iter().for_each(|why| tell(visible(why)));
    }
    Ok(0)
}

fn list(workers: &[WorkerView], format: Format) -> Result<(), CliError> {
    if format == Format::Json {
        let all: Vec<_> = workers.iter().map(worker_json).collect();
        return print(&format!("{}\n", json!(all)));
    }
    if workers.is_empty() {
        return print("No workers: one is started when a job needs it.\n");
    }
    let mut table = table(&["ID", "STATE", "CONNECTED", "SLOTS", "USED", "TAKEN", "ORDERED"]);
    for worker in workers {
        let used = worker.metrics.map_or_else(|| "-".to_owned(), |metrics| metrics.slots_used.to_string());
        table.add_row([
            worker.id.to_string(),
            worker.status.as_str().to_owned(),
            if worker.connected { "yes" } else { "no" }.to_owned(),
            worker.capacity.slots.to_string(),
            used,
            worker.max_jobs.map_or_else(|| "-".to_owned(), |max| format!("{}/{max}", worker.taken)),
            seconds(&worker.ordered_at.to_string()),
        ]);
    }
    print(&lines(&table))
}
