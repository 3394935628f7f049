//! `hodei job watch`: prints the changes of all jobs of a daemon.

use clap::Args;
use hodei_sdk::Job;
use hodei_sdk::port::FeedCursor;
use serde_json::json;

use crate::error::CliError;
use crate::job_json::job_json;
use crate::target::Target;
use crate::term::show::{Format, print_more, shown};

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Print only jobs that end.
    #[arg(long)]
    ended: bool,
    /// Start `now`, at the `oldest` kept change, or at a `cursor` that --output json printed
    /// [default: now].
    #[arg(long, value_name = "CURSOR")]
    from: Option<String>,
}

/// Prints jobs as they change, until it is interrupted or standard output is closed.
pub(super) async fn run(target: &Target, format: Format, args: WatchArgs) -> Result<u8, CliError> {
    let from = args.from.filter(|from| from != "now");
    let from = from.map(|from| FeedCursor::new(if from == "oldest" { "" } else { &from }));
    let mut feed = target.open(None).await?.jobs().watch_all(from).ends_only(args.ended);
    loop {
        let changes = feed.next().await?;
        let last = changes.jobs.len().saturating_sub(1);
        for (number, job) in changes.jobs.iter().enumerate() {
            let text = match format {
                // A cursor stands after all jobs of its batch.
                Format::Json if number == last => {
                    format!("{}\n", json!({ "job": job_json(job), "cursor": changes.next.as_str() }))
                }
                Format::Json => format!("{}\n", json!({ "job": job_json(job) })),
                Format::Table => line(job),
            };
            if !print_more(text.as_bytes())? {
                return Ok(0);
            }
        }
    }
}

fn line(job: &Job) -> String {
    let exit_code = job.ending().and_then(|ending| ending.run.as_ref()?.exit_code);
    let end = match (job.cause(), exit_code) {
        (Some(cause), Some(code)) => format!("  {} {code}", cause.as_str()),
        (Some(cause), None) => format!("  {}", cause.as_str()),
        (None, _) => String::new(),
    };
    format!("{}  {:<9}  {}{end}\n", job.id(), job.status().to_string(), shown(&job.spec().name()))
}
