//! `hodei job list`: lists jobs page by page.

use std::sync::Arc;

use clap::Args;
use hodei_sdk::port::JobFilter;
use hodei_sdk::{Job, JobStatus};

use crate::cmd::job::place::Place;
use crate::error::CliError;
use crate::job_json::job_json;
use crate::target::Target;
use crate::term::show::{Format, lines, print, seconds, shown, table, tell};

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    place: Place,
    /// List only jobs in this state, such as SUCCEEDED; may be repeated.
    #[arg(long)]
    state: Vec<JobStatus>,
    /// List only jobs with this label; may be repeated.
    #[arg(long, value_name = "K=V", value_parser = crate::spec_args::pair)]
    label: Vec<(String, String)>,
    /// List at most N jobs.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// List all jobs.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

/// Number of jobs read and printed at once: a long list starts at once, and is never in memory as a whole.
const PAGE_JOBS: usize = 500;

pub(super) async fn run(target: &Target, format: Format, args: ListArgs) -> Result<u8, CliError> {
    let hodei = target.open(args.place.dir()).await?;
    let (statuses, labels) = (args.state, args.label);
    let mut remaining = if args.all { usize::MAX } else { args.limit as usize };
    let mut filter = JobFilter { statuses, labels, ..JobFilter::default() };
    let mut writer = List { format, rows: 0 };
    loop {
        filter.limit = remaining.min(PAGE_JOBS);
        let page = hodei.jobs().list(filter.clone()).await?;
        writer.page(&page.jobs)?;
        remaining -= page.jobs.len().min(remaining);
        filter.after = page.next;
        if page.next.is_none() || remaining == 0 {
            break;
        }
    }
    writer.end()?;
    if filter.after.is_some() && format == Format::Table {
        tell("there are more jobs: raise --limit, or list them with --all");
    }
    Ok(0)
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
