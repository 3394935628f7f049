//! `hodei job events`: shows the history of a job.

use hodei_sdk::event::Envelope;
use serde_json::json;

use crate::cmd::job::place::OneArgs;
use crate::error::CliError;
use crate::job_json::event_json;
use crate::target::Target;
use crate::term::show::{Format, lines, print, table};

pub(super) async fn run(target: &Target, format: Format, args: OneArgs) -> Result<u8, CliError> {
    let hodei = target.open(args.place.dir()).await?;
    list(&hodei.jobs().history(args.id).await?, format)?;
    Ok(0)
}

fn list(history: &[Envelope], format: Format) -> Result<(), CliError> {
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
