//! Fetches the inputs of an attempt into its workspace.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use hodei_core::artifact::{Artifact, ArtifactInput, WorkspacePath};
use hodei_core::job::FailureCause;
use hodei_proto::v1::artifact_part::Part;
use hodei_proto::{convert, v1};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{Transfers, TryError};
use crate::connection::{ArtifactParts, TransferError};
use crate::executor::workspace::Workspace;

/// Fetches one input into the workspace, with the permissions that it was stored with. An artifact of an older version
/// has none and becomes executable by its user. The job has not started, so no other process changes the workspace.
pub(super) async fn fetch(
    transfers: &Transfers<'_>,
    workspace: &Workspace,
    input: &ArtifactInput,
) -> Result<(), TryError> {
    let attempt = Some(convert::attempt_ref(transfers.attempt));
    let request = v1::FetchRequest { attempt, path: input.path.to_string() };
    let parts = transfers.soon(transfers.channel.fetch(request)).await??;
    let path = workspace.dir().join(input.path.as_str());
    if goes_through_link(workspace.dir(), &input.path) {
        let why = format!(
            "`{}` cannot be fetched: a directory of its path is a link from another input",
            input.path
        );
        return Err(TryError::Local(FailureCause::Artifact(why)));
    }
    let (told, parts) = begin(transfers, parts, input).await?;
    if told.is_link {
        return fetch_link(transfers, parts, &path, input, &told).await;
    }
    let mut file = create(&path).map_err(|error| failed(input, &error))?;
    let received = receive(transfers, parts, &mut file, input, &told).await;
    let file = file.into_std().await;
    if received.is_ok()
        && let Some(mode) = told.mode
    {
        // The file must be closed before the job starts: the kernel does not execute a file that is open for writing.
        file.set_permissions(Permissions::from_mode(mode)).map_err(|error| failed(input, &error))?;
    }
    drop(file);
    received
}

/// Returns whether a directory of the path is a link. Below a link, `..` leads elsewhere than the path suggests.
fn goes_through_link(workspace: &Path, path: &WorkspacePath) -> bool {
    let dirs = Path::new(path.as_str()).ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty());
    dirs.map(|dir| workspace.join(dir)).any(|dir| dir.is_symlink())
}

/// Receives the description of an artifact, which precedes its content.
async fn begin(
    transfers: &Transfers<'_>,
    mut parts: ArtifactParts,
    input: &ArtifactInput,
) -> Result<(Artifact, ArtifactParts), TryError> {
    let first = transfers.soon(parts.recv()).await?.ok_or_else(|| broke(input))??.part;
    let Some(Part::Artifact(told)) = first else { return Err(broke(input).into()) };
    let told = convert::artifact_from_wire(&told).map_err(|_| broke(input))?;
    Ok((told, parts))
}

fn broke(input: &ArtifactInput) -> TransferError {
    TransferError::Unavailable(format!("the transfer of `{}` ended early", input.path))
}

/// Fetches a link into the workspace, unless it would lead out of the workspace.
async fn fetch_link(
    transfers: &Transfers<'_>,
    parts: ArtifactParts,
    path: &Path,
    input: &ArtifactInput,
    told: &Artifact,
) -> Result<(), TryError> {
    let leads_out = || {
        let why = format!("`{}` is a link that would lead out of the workspace", input.path);
        TryError::Local(FailureCause::Artifact(why))
    };
    if told.bytes > WorkspacePath::LONGEST as u64 {
        return Err(leads_out());
    }
    let mut target = Vec::new();
    receive(transfers, parts, &mut target, input, told).await?;
    let target = String::from_utf8(target).map_err(|_| leads_out())?;
    if !input.path.may_lead_to(&target) {
        return Err(leads_out());
    }
    let link = || {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        // A failed try may have left it.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(&target, path)
    };
    link().map_err(|error| failed(input, &error))
}

fn create(path: &Path) -> io::Result<tokio::fs::File> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    // A failed try may have left a part of it.
    let file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o700).open(path)?;
    Ok(file.into())
}

async fn receive(
    transfers: &Transfers<'_>,
    mut parts: ArtifactParts,
    file: &mut (impl AsyncWrite + Unpin + Send),
    input: &ArtifactInput,
    told: &Artifact,
) -> Result<(), TryError> {
    let (mut bytes, mut hash) = (0_u64, Sha256::new());
    while let Some(part) = transfers.soon(parts.recv()).await? {
        let Some(Part::Data(data)) = part?.part else { return Err(broke(input).into()) };
        bytes += data.len() as u64;
        if bytes > told.bytes {
            break;
        }
        hash.update(&data);
        file.write_all(&data).await.map_err(|error| failed(input, &error))?;
        transfers.moved();
    }
    file.flush().await.map_err(|error| failed(input, &error))?;
    if bytes < told.bytes {
        return Err(broke(input).into());
    }
    if bytes > told.bytes || <[u8; 32]>::from(hash.finalize()) != *told.sha256.as_bytes() {
        let why = format!("`{}` is damaged: its length or SHA-256 differs from the stored one", input.path);
        return Err(TransferError::Broken(why).into());
    }
    Ok(())
}

/// Classifies an I/O error. If two inputs need the same path as a file and as a directory, the job is at fault.
fn failed(input: &ArtifactInput, error: &io::Error) -> TryError {
    let why = format!("`{}` cannot be put into the workspace: {error}", input.path);
    TryError::Local(match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => {
            FailureCause::Artifact(why)
        }
        _ => FailureCause::Io(why),
    })
}
