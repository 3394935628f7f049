//! `hodei secret delete`: deletes a secret by its name.

use super::OneArgs;
use crate::error::CliError;
use crate::target::Target;

pub(super) async fn run(target: &Target, args: OneArgs) -> Result<u8, CliError> {
    let OneArgs { name, place } = args;
    let hodei = target.open(place.data_dir.as_deref()).await?;
    if !hodei.secrets().delete(&name).await? {
        return Err(CliError::NoSecret(name));
    }
    hodei.shutdown().await;
    Ok(0)
}
