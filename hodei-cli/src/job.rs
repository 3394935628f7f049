//! `hodei job`: the jobs of a daemon, or of a data directory after and between the runs.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use hodei_sdk::id::JobId;
use hodei_sdk::port::JobFilter;
use hodei_sdk::{Hodei, Job, JobStatus};
use serde_json::json;

use crate::args::{OutputFormat, SpecArgs};
use crate::error::CliError;
use crate::exit;
use crate::job_json::{event_json, job_json};
use crate::output::write;
use crate::run::{Interrupts, leave};
use crate::target::{Target, check, store_url};

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Submit a job and print its id.
    Submit(Box<SubmitArgs>),
    /// List jobs, the newest first.
    List(ListArgs),
    /// Show one job.
    Get(OneArgs),
    /// Print the output of a job: its stdout on stdout, its stderr on stderr.
    Logs(LogsArgs),
    /// Wait for the end of jobs; exit with 0 when all of them succeeded. In a data directory, run them.
    Wait(WaitArgs),
    /// Cancel a job that waits; ask one that runs to stop.
    Cancel(OneArgs),
    /// Submit a job again and print the id of the new one; `job wait` runs it.
    Retry(RetryArgs),
    /// Show everything that happened to a job.
    Events(OneArgs),
}

#[derive(Debug, Args)]
struct Place {
    /// Where the jobs are, as in `hodei run --data-dir`, when no daemon has them.
    #[arg(long, value_name = "DIR", env = "HODEI_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

impl Place {
    fn dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }
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
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    what: SpecArgs,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The job.
    id: JobId,
    #[command(flatten)]
    place: Place,
    /// Go on with what the job writes until it ends; only with a daemon.
    #[arg(short, long, conflicts_with = "data_dir")]
    follow: bool,
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
pub(crate) async fn run(target: &Target, command: JobCommand) -> Result<u8, CliError> {
    match command {
        JobCommand::Submit(args) => {
            let spec = args.what.spec()?;
            let job = target.open(args.place.dir()).await?.submit(spec).await?;
            print(&format!("{}\n", job.id())).map(|()| 0)
        }
        JobCommand::List(args) => list(target, args).await.map(|()| 0),
        JobCommand::Get(args) => get(target, args).await.map(|()| 0),
        JobCommand::Events(args) => events(target, args).await.map(|()| 0),
        JobCommand::Logs(args) => logs(target, args).await.map(|()| 0),
        JobCommand::Retry(args) => {
            let job = target.open(args.place.dir()).await?.retry(args.id).await?;
            print(&format!("{}\n", job.id())).map(|()| 0)
        }
        JobCommand::Cancel(args) => {
            let job = target.open(args.place.dir()).await?.cancel(args.id).await?;
            show(&job_json(&job), args.output).map(|()| 0)
        }
        JobCommand::Wait(args) => match target.dir(args.place.dir()) {
            Some(dir) => wait(dir, args.ids).await,
            None => wait_for(&target.open(None).await?, args.ids).await,
        },
    }
}

/// Prints; a reader that has gone has seen enough.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(()),
    }
}

async fn list(target: &Target, args: ListArgs) -> Result<(), CliError> {
    let hodei = target.open(args.place.dir()).await?;
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

async fn get(target: &Target, args: OneArgs) -> Result<(), CliError> {
    let hodei = target.open(args.place.dir()).await?;
    show(&job_json(&*hodei.get(args.id).await?), args.output)
}

/// One JSON object, or a line for each of its fields that says something.
pub(crate) fn show(object: &serde_json::Value, format: ListFormat) -> Result<(), CliError> {
    if format == ListFormat::Json {
        return print(&format!("{object}\n"));
    }
    let mut table = table(&[]);
    for (name, value) in object.as_object().into_iter().flatten() {
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

async fn events(target: &Target, args: OneArgs) -> Result<(), CliError> {
    let hodei = target.open(args.place.dir()).await?;
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

async fn logs(target: &Target, args: LogsArgs) -> Result<(), CliError> {
    let hodei = target.open(args.place.dir()).await?;
    let logs = hodei.logs(args.id);
    let mut logs = if args.follow { logs } else { logs.stored() };
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
async fn wait(dir: &Path, ids: Vec<JobId>) -> Result<u8, CliError> {
    check(dir)?;
    let mut interrupts = Interrupts::new().map_err(CliError::Runtime)?;
    let hodei = Hodei::open(&store_url(dir)).await?;
    let interrupted = tokio::select! {
        code = interrupts.next() => Ok(code),
        waited = wait_for(&hodei, ids) => Err(waited),
    };
    match interrupted {
        Ok(code) => {
            // What runs goes on with the next start.
            hodei.shutdown_within(std::time::Duration::ZERO).await;
            Ok(code)
        }
        Err(waited) => {
            leave(hodei, dir, &mut interrupts).await;
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

pub(crate) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !head.is_empty() {
        table.set_header(head.iter().copied());
    }
    table
}

/// Without the blanks that fill a line to the end.
pub(crate) fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim())).collect()
}

/// A text of the user's as one short line: it must not move the cursor, nor push the columns apart.
pub(crate) fn shown(text: &str) -> String {
    let invisible = |c: char| c.is_control() || ('\u{200b}'..='\u{202e}').contains(&c) || c == '\u{2066}';
    let mut line: String = text.chars().map(|c| if invisible(c) { '\u{fffd}' } else { c }).take(60).collect();
    if text.chars().count() > 60 {
        line.push('\u{2026}');
    }
    line
}

/// A time to the second: nobody reads microseconds in a list.
pub(crate) fn seconds(at: &str) -> String {
    at.split_once('.').map_or_else(|| at.to_owned(), |(whole, _)| format!("{whole}Z"))
}
