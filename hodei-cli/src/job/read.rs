//! Looking at jobs.

use std::io::Write;
use std::sync::Arc;

use hodei_sdk::event::Envelope;
use hodei_sdk::port::JobFilter;
use hodei_sdk::{Hodei, Job};
use serde_json::json;

use super::{ListArgs, LogsArgs};
use crate::error::CliError;
use crate::job_json::{event_json, job_json, log_json};
use crate::output::write;
use crate::show::{Format, lines, print, seconds, shown, table, tell};
use crate::target::Target;

/// Jobs of one page, so that a long list begins at once and is never in memory whole.
const PAGE: usize = 500;

pub(super) async fn list(target: &Target, format: Format, args: ListArgs) -> Result<(), CliError> {
    let hodei = target.open(args.place.dir()).await?;
    let (statuses, labels) = (args.state, args.label);
    let mut left = if args.all { usize::MAX } else { args.limit as usize };
    let mut filter = JobFilter { statuses, labels, ..JobFilter::default() };
    let mut writer = List { format, rows: 0 };
    loop {
        filter.limit = left.min(PAGE);
        let page = hodei.list(filter.clone()).await?;
        writer.page(&page.jobs)?;
        left -= page.jobs.len().min(left);
        filter.after = page.next;
        if page.next.is_none() || left == 0 {
            break;
        }
    }
    writer.end()?;
    if filter.after.is_some() && format == Format::Table {
        tell("there are more: raise --limit, or list them with --all");
    }
    Ok(())
}

/// A list that is written page by page.
struct List {
    format: Format,
    rows: usize,
}

impl List {
    fn page(&mut self, jobs: &[Arc<Job>]) -> Result<(), CliError> {
        let text = match self.format {
            Format::Json => jobs
                .iter()
                .enumerate()
                .map(|(n, job)| format!("{}{}", if self.rows + n == 0 { "[" } else { ",\n" }, job_json(job)))
                .collect(),
            Format::Table => self.table(jobs),
        };
        self.rows += jobs.len();
        print(&text)
    }

    fn table(&self, jobs: &[Arc<Job>]) -> String {
        let head = ["ID", "NAME", "STATE", "ATTEMPT", "EXIT", "CAUSE", "CREATED"];
        let mut table = table(if self.rows == 0 && !jobs.is_empty() { &head } else { &[] });
        for job in jobs {
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
        lines(&table)
    }

    fn end(self) -> Result<(), CliError> {
        match (self.format, self.rows) {
            (Format::Json, 0) => print("[]\n"),
            (Format::Json, _) => print("]\n"),
            (Format::Table, 0) => print("No jobs.\n"),
            (Format::Table, _) => Ok(()),
        }
    }
}

pub(super) fn events(history: &[Envelope], format: Format) -> Result<(), CliError> {
    if format == Format::Json {
        let events: Vec<_> = history.iter().map(event_json).collect();
        return print(&format!("{}\n", json!(events)));
    }
    let mut table = table(&["SEQUENCE", "TIME", "EVENT", "BY"]);
    for envelope in history {
        table.add_row([
            envelope.sequence.to_string(),
            envelope.at.to_string(),
            envelope.event.name().to_owned(),
            format!("{:?}", envelope.actor).to_lowercase(),
        ]);
    }
    print(&lines(&table))
}

pub(super) async fn logs(target: &Target, format: Format, args: LogsArgs) -> Result<(), CliError> {
    let hodei: Hodei = target.open(args.place.dir()).await?;
    let logs = hodei.logs(args.id);
    let mut logs = if args.follow { logs } else { logs.stored() };
    while let Some(item) = logs.next().await? {
        let written = match format {
            Format::Table => write(&item, format),
            Format::Json => writeln!(std::io::stdout().lock(), "{}", log_json(&item)),
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(CliError::Output(error)),
        }
    }
    Ok(())
}
