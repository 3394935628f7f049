//! `hodei secret list`: lists the names of secrets, never their values.

use hodei_sdk::port::SecretInfo;
use serde_json::json;

use super::Place;
use crate::error::CliError;
use crate::target::Target;
use crate::term::show::{Format, lines, print, seconds, table};

pub(super) async fn run(target: &Target, format: Format, place: Place) -> Result<u8, CliError> {
    let hodei = target.open(place.data_dir.as_deref()).await?;
    list(&hodei.secrets().list().await?, format)?;
    Ok(0)
}

fn list(secrets: &[SecretInfo], format: Format) -> Result<(), CliError> {
    if format == Format::Json {
        let json = |info: &SecretInfo| json!({ "name": info.name.as_str(), "changed_at": info.changed_at.to_string() });
        return print(&format!("{}\n", json!(secrets.iter().map(json).collect::<Vec<_>>())));
    }
    if secrets.is_empty() {
        return print("No secrets: `hodei secret put NAME` stores one from standard input.\n");
    }
    let mut table = table(&["NAME", "CHANGED"]);
    for info in secrets {
        table.add_row([info.name.to_string(), seconds(&info.changed_at.to_string())]);
    }
    print(&lines(&table))
}
