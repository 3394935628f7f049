//! `hodei secret put`: stores a secret from standard input.

use std::io::{IsTerminal, Read};

use hodei_sdk::{SecretName, SecretValue};

use super::{OneArgs, Place};
use crate::error::CliError;
use crate::target::{Target, store_url};
use crate::term::hidden_line::hidden_line;
use crate::term::interrupts::Interrupts;

pub(super) async fn run(target: &Target, args: OneArgs) -> Result<u8, CliError> {
    let OneArgs { name, place } = args;
    // The value is read before a platform is opened: an invalid value needs no daemon.
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
    Ok(0)
}

async fn put(target: &Target, place: &Place, name: &SecretName, value: SecretValue) -> Result<(), CliError> {
    let hodei = match target.dir(place.data_dir.as_deref()) {
        Some(dir) => hodei_sdk::Hodei::builder().url(store_url(dir)).passive().start().await?,
        None => target.open(None).await?,
    };
    hodei.secrets().put(name, value).await?;
    hodei.shutdown().await;
    Ok(())
}

async fn typed_value(name: &SecretName) -> Result<SecretValue, CliError> {
    let prompt = format_args!("type the value of `{name}` and press Enter; it is not shown");
    match hidden_line(prompt).await.map_err(CliError::Stdin)? {
        Some(line) => value_of(name, &line),
        None => Err(CliError::LongLine(name.clone())),
    }
}

fn read_value(name: &SecretName) -> Result<SecretValue, CliError> {
    // The full capacity at once: a vector that grows leaves copies of the secret in memory.
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(SecretValue::LONGEST + 2));
    let limited = std::io::stdin().lock().take(SecretValue::LONGEST as u64 + 2).read_to_end(&mut bytes);
    limited.map_err(CliError::Stdin)?;
    let line = bytes.strip_suffix(b"\n").filter(|line| !line.contains(&b'\n'));
    value_of(name, line.unwrap_or(&bytes))
}

fn value_of(name: &SecretName, bytes: &[u8]) -> Result<SecretValue, CliError> {
    SecretValue::new(bytes.to_vec()).map_err(|error| CliError::SecretSize { name: name.clone(), error })
}
