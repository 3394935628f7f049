//! `hodei secret`: values that jobs are given and nobody sees.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use hodei_sdk::port::SecretInfo;
use hodei_sdk::{SecretName, SecretValue};
use serde_json::json;

use crate::error::CliError;
use crate::run::Interrupts;
use crate::show::{Format, lines, print, seconds, table};
use crate::target::{Target, store_url};
use crate::terminal::hidden_line;

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Give a secret a value, read from standard input, in the place of one that it may have.
    ///
    /// A terminal is asked for one line and does not show it; a pipe or a file is read to its end.
    /// The newline that ends a value of one line is not of the value. Jobs that want it say --secret NAME.
    Put(OneArgs),
    /// List the secrets by name; their values are shown to nobody.
    List(Place),
    /// Delete a secret: jobs that want it fail from then on.
    Delete(OneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Where they are, as in `hodei run --data-dir`, when no daemon has them; `put` makes it when missing.
    #[arg(long, value_name = "DIR", env = "HODEI_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// Its name: letters, digits, `_`, `-` and `.`.
    name: SecretName,
    #[command(flatten)]
    place: Place,
}

/// Runs a command.
pub(crate) async fn run(target: &Target, format: Format, command: SecretCommand) -> Result<u8, CliError> {
    match command {
        SecretCommand::Put(OneArgs { name, place }) => {
            // Before anything is opened: a value that is none needs no daemon.
            if std::io::stdin().is_terminal() {
                let mut interrupts = Interrupts::new().map_err(CliError::Stdin)?;
                let work = async { put(target, &place, &name, typed_value(&name).await?).await };
                tokio::select! {
                    biased;
                    code = interrupts.next() => return Ok(code),
                    done = work => done?,
                }
            } else {
                put(target, &place, &name, read_value(&name)?).await?;
            }
        }
        SecretCommand::List(place) => {
            let hodei = target.open(place.data_dir.as_deref()).await?;
            list(&hodei.list_secrets().await?, format)?;
        }
        SecretCommand::Delete(OneArgs { name, place }) => {
            let hodei = target.open(place.data_dir.as_deref()).await?;
            if !hodei.delete_secret(&name).await? {
                return Err(CliError::NoSecret(name));
            }
            hodei.shutdown().await;
        }
    }
    Ok(0)
}

async fn put(target: &Target, place: &Place, name: &SecretName, value: SecretValue) -> Result<(), CliError> {
    let hodei = match target.dir(place.data_dir.as_deref()) {
        Some(dir) => hodei_sdk::Hodei::builder().url(store_url(dir)).passive().start().await?,
        None => target.open(None).await?,
    };
    hodei.put_secret(name, value).await?;
    hodei.shutdown().await;
    Ok(())
}

async fn typed_value(name: &SecretName) -> Result<SecretValue, CliError> {
    let prompt = format_args!("type the value of `{name}` and Enter; it is not shown");
    match hidden_line(prompt).await.map_err(CliError::Stdin)? {
        Some(line) => value_of(name, &line),
        None => Err(CliError::LongLine(name.clone())),
    }
}

fn read_value(name: &SecretName) -> Result<SecretValue, CliError> {
    // All room at once: what grows leaves copies behind.
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(SecretValue::LONGEST + 2));
    let limited = std::io::stdin().lock().take(SecretValue::LONGEST as u64 + 2).read_to_end(&mut bytes);
    limited.map_err(CliError::Stdin)?;
    let line = bytes.strip_suffix(b"\n").filter(|line| !line.contains(&b'\n'));
    value_of(name, line.unwrap_or(&bytes))
}

fn value_of(name: &SecretName, bytes: &[u8]) -> Result<SecretValue, CliError> {
    SecretValue::new(bytes.to_vec()).map_err(|error| CliError::SecretSize { name: name.clone(), error })
}

fn list(secrets: &[SecretInfo], format: Format) -> Result<(), CliError> {
    if format == Format::Json {
        let json = |info: &SecretInfo| json!({ "name": info.name.as_str(), "changed_at": info.changed_at.to_string() });
        return print(&format!("{}\n", json!(secrets.iter().map(json).collect::<Vec<_>>())));
    }
    if secrets.is_empty() {
        return print("No secrets: `hodei secret put NAME` reads one from standard input.\n");
    }
    let mut table = table(&["NAME", "CHANGED"]);
    for info in secrets {
        table.add_row([info.name.to_string(), seconds(&info.changed_at.to_string())]);
    }
    print(&lines(&table))
}
