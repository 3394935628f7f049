use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use hodei_core::artifact::{Artifact, ArtifactInput};
use hodei_core::job::FailureCause;
use hodei_proto::v1::artifact_part::Part;
use hodei_proto::{convert, v1};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;

use super::super::workspace::Workspace;
use super::{Transfers, Trouble};
use crate::connection::{ArtifactParts, TransferError};

/// Puts one input into the workspace, as a file that its user may execute too. Nobody else is in there yet.
pub(super) async fn fetch(
    transfers: &Transfers<'_>,
    workspace: &Workspace,
    input: &ArtifactInput,
) -> Result<(), Trouble> {
    let attempt = Some(convert::attempt_ref(transfers.attempt));
    let request = v1::FetchRequest { attempt, path: input.path.to_string() };
    let parts = transfers.soon(transfers.channel.fetch(request)).await??;
    let path = workspace.dir().join(input.path.as_str());
    let mut file = create(&path).map_err(|error| failed(input, &error))?;
    let received = receive(transfers, parts, &mut file, input).await;
    drop(file.into_std().await);
    received
}

fn create(path: &Path) -> io::Result<tokio::fs::File> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    // From an earlier try there may be the beginning of it.
    let file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o700).open(path)?;
    Ok(file.into())
}

async fn receive(
    transfers: &Transfers<'_>,
    mut parts: ArtifactParts,
    file: &mut tokio::fs::File,
    input: &ArtifactInput,
) -> Result<(), Trouble> {
    let broke = || TransferError::Unavailable(format!("`{}` did not come whole", input.path));
    let first = transfers.soon(parts.recv()).await?.ok_or_else(broke)??.part;
    let Some(Part::Artifact(told)) = first else { return Err(broke().into()) };
    let told: Artifact = convert::artifact_from_wire(&told).map_err(|_| broke())?;
    let (mut bytes, mut hash) = (0_u64, Sha256::new());
    while let Some(part) = transfers.soon(parts.recv()).await? {
        let Some(Part::Data(data)) = part?.part else { return Err(broke().into()) };
        bytes += data.len() as u64;
        hash.update(&data);
        file.write_all(&data).await.map_err(|error| failed(input, &error))?;
        transfers.moved();
    }
    // Closed before the job starts: a program that somebody may still write to is not executed.
    file.flush().await.map_err(|error| failed(input, &error))?;
    if bytes < told.bytes {
        return Err(broke().into());
    }
    if bytes > told.bytes || <[u8; 32]>::from(hash.finalize()) != *told.sha256.as_bytes() {
        let why = format!("`{}` is not what was stored: its SHA-256 is another", input.path);
        return Err(TransferError::Broken(why).into());
    }
    Ok(())
}

/// Two inputs that want one place as a file and as a directory are the job's own doing.
fn failed(input: &ArtifactInput, error: &io::Error) -> Trouble {
    let why = format!("`{}` cannot be put into the workspace: {error}", input.path);
    Trouble::Here(match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => {
            FailureCause::Artifact(why)
        }
        _ => FailureCause::Io(why),
    })
}
