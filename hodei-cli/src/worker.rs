//! `hodei worker`: where jobs run.

use clap::{Args, Subcommand};
use hodei_sdk::id::WorkerId;
use hodei_sdk::worker::{LimitHold, WorkerView};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::show::{Format, lines, object, print, seconds, table, tell, visible};
use crate::target::Target;

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// List the workers that are not terminated.
    List,
    /// Show one worker, and how its machine does.
    Get(GetArgs),
    /// Have a worker take nothing more, and leave when its jobs have ended.
    Drain(GetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The worker.
    id: WorkerId,
}

/// Runs a command.
pub(crate) async fn run(target: &Target, format: Format, command: WorkerCommand) -> Result<u8, CliError> {
    let hodei = target.open(None).await?;
    match command {
        WorkerCommand::List => {
            let workers = hodei.workers().await?;
            list(&workers, format)?;
            if workers.iter().all(|worker| !worker.connected) {
                // On stderr: standard output has the workers.
                hodei.queue().await?.troubles.iter().for_each(|why| tell(visible(why)));
            }
        }
        WorkerCommand::Get(args) => {
            let worker = hodei.worker(args.id).await?.ok_or(hodei_sdk::Error::NoWorker(args.id))?;
            object(&worker_json(&worker), format)?;
        }
        WorkerCommand::Drain(args) => object(&worker_json(&hodei.drain_worker(args.id).await?), format)?,
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

/// The stable JSON of a worker.
fn worker_json(worker: &WorkerView) -> Value {
    json!({
        "id": worker.id.to_string(),
        "state": worker.status.as_str(),
        "connected": worker.connected,
        "provider_id": worker.provider.to_string(),
        "reference": worker.reference,
        "labels": worker.labels,
        "limits": LimitHold::of(&worker.labels).map(LimitHold::as_str),
        "slots": worker.capacity.slots,
        "jobs_taken": worker.max_jobs.map(|_| worker.taken),
        "max_jobs": worker.max_jobs,
        "ordered_at": worker.ordered_at.to_string(),
        "cause": worker.cause,
        "metrics": worker.metrics,
    })
}
