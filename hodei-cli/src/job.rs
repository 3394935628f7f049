//! `hodei job`: the jobs of a data directory, after and between the runs.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use hodei_sdk::id::JobId;
use hodei_sdk::port::JobFilter;
use hodei_sdk::{Hodei, Job, JobStatus};
use serde_json::json;

use crate::args::OutputFormat;
use crate::error::CliError;
use crate::exit;
use crate::job_json::{event_json, job_json};
use crate::output::write;
use crate::run::{Interrupts, leave, store_url};

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List jobs, the newest first.
    List(ListArgs),
    /// Show one job.
    Get(OneArgs),
    /// Print the output of a job: its stdout on stdout, its stderr on stderr.
    Logs(LogsArgs),
    /// Run what is open and wait for its end; exit with 0 when all of it succeeded.
    Wait(WaitArgs),
    /// Submit a job again and print the id of the new one; `job wait` runs it.
    Retry(RetryArgs),
    /// Show everything that happened to a job.
    Events(OneArgs),
}

#[derive(Debug, Args)]
struct Place {
    /// Where the jobs are, as in `hodei run --data-dir`.
    #[arg(long, value_name = "DIR", env = "HODEI_DATA_DIR")]
    data_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    place: Place,
    /// Only jobs in this state, such as SUCCEEDED; may be repeated.
    #[arg(long)]
    state: Vec<JobStatus>,
    /// Only jobs with this label; may be repeated.
    #[arg(long, value_name = "K=V", value_parser = crate::args::pair)]
    label: Vec<(String, String)>,
    /// At most this many.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// How to show them.
    #[arg(long, default_value = "table")]
    output: ListFormat,
}

#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// The job.
    id: JobId,
    #[command(flatten)]
    place: Place,
    /// How to show it.
    #[arg(long, default_value = "table")]
    output: ListFormat,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The job.
    id: JobId,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// The job.
    id: JobId,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The jobs [default: all that are open].
    ids: Vec<JobId>,
    #[command(flatten)]
    place: Place,
}

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// Columns.
    Table,
    /// One JSON value.
    Json,
}

/// Runs a command and returns the exit code.
pub(crate) async fn run(command: JobCommand) -> Result<u8, CliError> {
    match command {
        JobCommand::List(args) => list(args).await.map(|()| 0),
        JobCommand::Get(args) => get(args).await.map(|()| 0),
        JobCommand::Events(args) => events(args).await.map(|()| 0),
        JobCommand::Logs(args) => logs(args).await.map(|()| 0),
        JobCommand::Retry(args) => {
            let job = open(&args.place.data_dir).await?.retry(args.id).await?;
            print(&format!("{}\n", job.id())).map(|()| 0)
        }
        JobCommand::Wait(args) => wait(args).await,
    }
}

/// A platform that runs nothing, on a directory that is there.
async fn open(dir: &Path) -> Result<Hodei, CliError> {
    check(dir)?;
    Ok(Hodei::builder().url(store_url(dir)).passive().start().await?)
}

/// Looking must not make a directory by a typing error.
fn check(dir: &Path) -> Result<(), CliError> {
    match dir.join("hodei.db").try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(CliError::NoDataDir(dir.to_owned())),
        Err(error) => Err(CliError::File { path: dir.to_owned(), error }),
    }
}

/// Prints; a reader that has gone has seen enough.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(()),
    }
}

async fn list(args: ListArgs) -> Result<(), CliError> {
    let hodei = open(&args.place.data_dir).await?;
    let (statuses, labels) = (args.state, args.label);
    let filter = JobFilter { statuses, labels, limit: args.limit as usize, ..JobFilter::default() };
    let page = hodei.list(filter).await?;
    if args.output == ListFormat::Json {
        let jobs: Vec<_> = page.jobs.iter().map(|job| job_json(job)).collect();
        return print(&format!("{}\n", json!(jobs)));
    }
    if page.jobs.is_empty() {
        return print("No jobs.\n");
    }
    let mut table = table(&["ID", "NAME", "STATE", "ATTEMPT", "EXIT", "CAUSE", "CREATED"]);
    for job in &page.jobs {
        let exit_code = job.ending().and_then(|ending| ending.run.as_ref()?.exit_code);
        table.add_row([
            job.id().to_string(),
            shown(&job.spec().name()),
            job.status().to_string(),
            job.attempt().to_string(),
            exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
            job.cause().map_or("-", |cause| cause.as_str()).to_owned(),
            seconds(&job.created_at().to_string()),
        ]);
    }
    print(&lines(&table))?;
    if page.next.is_some() {
        eprintln!("hodei: there are more: raise --limit");
    }
    Ok(())
}

async fn get(args: OneArgs) -> Result<(), CliError> {
    let hodei = open(&args.place.data_dir).await?;
    let job = job_json(&*hodei.get(args.id).await?);
    if args.output == ListFormat::Json {
        return print(&format!("{job}\n"));
    }
    let mut table = table(&[]);
    for (name, value) in job.as_object().into_iter().flatten() {
        let value = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => shown(text),
            serde_json::Value::Object(labels) if labels.is_empty() => continue,
            other => other.to_string(),
        };
        table.add_row([name.clone(), value]);
    }
    print(&lines(&table))
}

async fn events(args: OneArgs) -> Result<(), CliError> {
    let hodei = open(&args.place.data_dir).await?;
    let history = hodei.history(args.id).await?;
    if args.output == ListFormat::Json {
        let events: Vec<_> = history.iter().map(event_json).collect();
        return print(&format!("{}\n", json!(events)));
    }
    let mut table = table(&["SEQUENCE", "TIME", "EVENT", "BY"]);
    for envelope in &history {
        table.add_row([
            envelope.sequence.to_string(),
            envelope.at.to_string(),
            envelope.event.name().to_owned(),
            format!("{:?}", envelope.actor).to_lowercase(),
        ]);
    }
    print(&lines(&table))
}

async fn logs(args: LogsArgs) -> Result<(), CliError> {
    let hodei = open(&args.place.data_dir).await?;
    let mut logs = hodei.logs(args.id).stored();
    while let Some(item) = logs.next().await? {
        match write(&item, OutputFormat::Text) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(CliError::Output(error)),
        }
    }
    Ok(())
}

/// Goes on with everything in the directory until the wanted jobs are over.
async fn wait(args: WaitArgs) -> Result<u8, CliError> {
    check(&args.place.data_dir)?;
    let mut interrupts = Interrupts::new().map_err(CliError::Runtime)?;
    let hodei = Hodei::open(&store_url(&args.place.data_dir)).await?;
    let interrupted = tokio::select! {
        code = interrupts.next() => Ok(code),
        waited = wait_for(&hodei, args.ids) => Err(waited),
    };
    match interrupted {
        Ok(code) => {
            // What runs goes on with the next start.
            hodei.shutdown_within(std::time::Duration::ZERO).await;
            Ok(code)
        }
        Err(waited) => {
            leave(hodei, &args.place.data_dir, &mut interrupts).await;
            waited
        }
    }
}

async fn wait_for(hodei: &Hodei, ids: Vec<JobId>) -> Result<u8, CliError> {
    let ids = if ids.is_empty() { open_jobs(hodei).await? } else { ids };
    let mut code = 0;
    for id in ids {
        let ended = hodei.job(id).wait().await?;
        print(&format!("{id} {}\n", ended.status()))?;
        if let Some(message) = exit::message(&ended) {
            eprintln!("hodei: {id}: {message}");
        }
        code = if code == 0 { exit::code(&ended) } else { code };
    }
    Ok(code)
}

/// Every open job, the oldest first.
pub(crate) async fn open_jobs(hodei: &Hodei) -> Result<Vec<JobId>, CliError> {
    let statuses = JobStatus::ALL.into_iter().filter(|status| !status.is_terminal()).collect();
    let mut filter = JobFilter { statuses, limit: 1000, ..JobFilter::default() };
    let mut ids = Vec::new();
    loop {
        let page = hodei.list(filter.clone()).await?;
        ids.extend(page.jobs.iter().map(|job: &std::sync::Arc<Job>| job.id()));
        filter.after = page.next;
        if page.next.is_none() {
            ids.reverse();
            return Ok(ids);
        }
    }
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !head.is_empty() {
        table.set_header(head.iter().copied());
    }
    table
}

/// Without the blanks that fill a line to the end.
fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim())).collect()
}

/// A text of the user's as one short line: it must not move the cursor, nor push the columns apart.
fn shown(text: &str) -> String {
    let invisible = |c: char| c.is_control() || ('\u{200b}'..='\u{202e}').contains(&c) || c == '\u{2066}';
    let mut line: String = text.chars().map(|c| if invisible(c) { '\u{fffd}' } else { c }).take(60).collect();
    if text.chars().count() > 60 {
        line.push('\u{2026}');
    }
    line
}

/// A time to the second: nobody reads microseconds in a list.
fn seconds(at: &str) -> String {
    at.split_once('.').map_or_else(|| at.to_owned(), |(whole, _)| format!("{whole}Z"))
}
