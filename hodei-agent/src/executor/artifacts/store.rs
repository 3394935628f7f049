use std::io;
use std::path::Path;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use hodei_core::artifact::{Artifact, ArtifactOutput, Digest, WorkspacePath};
use hodei_core::job::{FailureCause, limits};
use hodei_core::port::ClockExt;
use hodei_proto::v1::store_request::Part;
use hodei_proto::{convert, v1};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::super::workspace::Workspace;
use super::beneath::{self, Found};
use super::{NotMoved, PIECE, STORED, Transfers, Trouble};
use crate::connection::TransferError;

/// What is looked at to find what is to be kept: most of it may be directories.
const LOOKED: usize = 10 * limits::STORED;

/// The files that are to be kept, in order. Of a `failed` attempt only what is kept of those, and only what is there.
pub(super) fn files(
    dir: &Path,
    outputs: &[ArtifactOutput],
    failed: bool,
) -> Result<Vec<WorkspacePath>, NotMoved> {
    let (mut files, mut looked) = (Vec::new(), 0);
    'outputs: for output in outputs.iter().filter(|output| output.on_failure || !failed) {
        let mut left = vec![output.path.clone()];
        while let Some(path) = left.pop() {
            looked += 1;
            match look(dir, &path) {
                Ok(Looked::File) => files.push(path),
                Ok(Looked::Directory(within)) => left.extend(within.into_iter().rev()),
                // Of a failure is kept what can be.
                Err((kind, why)) if failed => {
                    if kind != io::ErrorKind::NotFound {
                        tracing::warn!(why, "a file of a failure is not kept");
                    }
                }
                Err((_, why)) => return Err(FailureCause::Artifact(why).into()),
            }
            let too_many = if files.len() + left.len() > limits::STORED {
                format!("there are more than {} files to keep", limits::STORED)
            } else if looked > LOOKED {
                format!("there are more than {LOOKED} files and directories in what is to be kept")
            } else {
                continue;
            };
            if !failed {
                return Err(FailureCause::Artifact(too_many).into());
            }
            tracing::warn!(too_many, "not all is kept of a failure");
            break 'outputs;
        }
    }
    files.truncate(limits::STORED);
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

enum Looked {
    File,
    Directory(Vec<WorkspacePath>),
}

fn look(dir: &Path, path: &WorkspacePath) -> Result<Looked, (io::ErrorKind, String)> {
    let refused = |why: String| (io::ErrorKind::InvalidInput, why);
    match beneath::open(dir, path) {
        Ok(Found::File(..)) => Ok(Looked::File),
        Ok(Found::Directory(names)) => {
            let paths = names.into_iter().map(|name| path.join(&name.unwrap_or_default()));
            paths.collect::<Result<_, _>>().map(Looked::Directory).map_err(|_| {
                refused(format!("`{path}` has something with a name that is no text, or too long"))
            })
        }
        Ok(Found::Other) => {
            Err(refused(format!("`{path}` is neither a file nor a directory, and is not followed")))
        }
        Err(error) => Err((error.kind(), cannot_read(path, &error))),
    }
}

fn cannot_read(path: &WorkspacePath, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("the job left no `{path}`"),
        _ => format!("`{path}` cannot be read: {error}"),
    }
}

/// Stores one file.
pub(super) async fn store(
    transfers: &Transfers<'_>,
    workspace: &Workspace,
    path: &WorkspacePath,
) -> Result<Artifact, Trouble> {
    let cannot = |error: io::Error| Trouble::Here(FailureCause::Artifact(cannot_read(path, &error)));
    let (file, bytes) = match beneath::open(workspace.dir(), path).map_err(cannot)? {
        Found::File(file, bytes) => (tokio::fs::File::from(file), bytes),
        _ => return Err(cannot(io::ErrorKind::NotFound.into())),
    };
    let (parts, requests) = mpsc::channel(4);
    let mut storing = pin!(transfers.channel.store(requests));
    let mut sending = pin!(send(transfers, parts, file, path, bytes));
    let artifact = tokio::select! {
        biased;
        early = &mut storing => {
            return Err(early.err().unwrap_or_else(|| TransferError::Unavailable("it was not read to its end".into())).into());
        }
        sent = &mut sending => sent?,
    };
    let late = |_| TransferError::Unavailable("that it is stored was not said in time".into());
    transfers.clock.timeout(STORED, storing).await.map_err(late)??;
    Ok(artifact)
}

async fn send(
    transfers: &Transfers<'_>,
    parts: mpsc::Sender<v1::StoreRequest>,
    mut file: tokio::fs::File,
    path: &WorkspacePath,
    bytes: u64,
) -> Result<Artifact, Trouble> {
    let attempt = Some(convert::attempt_ref(transfers.attempt));
    let begin = v1::StoreBegin { attempt, name: path.to_string(), bytes };
    say(transfers, &parts, Part::Begin(begin)).await?;
    let (mut count, mut hash) = (0_u64, Sha256::new());
    loop {
        let data = piece(&mut file).await;
        let data = data.map_err(|error| Trouble::Here(FailureCause::Artifact(cannot_read(path, &error))))?;
        if data.is_empty() {
            break;
        }
        count += data.len() as u64;
        hash.update(&data);
        say(transfers, &parts, Part::Data(data)).await?;
        transfers.moved();
    }
    let sha256 = Digest::from_bytes(hash.finalize().into());
    let artifact = Artifact { name: path.clone(), bytes: count, sha256 };
    say(transfers, &parts, Part::End(convert::artifact_to_wire(&artifact))).await?;
    Ok(artifact)
}

async fn piece(file: &mut tokio::fs::File) -> io::Result<Bytes> {
    let mut data = BytesMut::with_capacity(PIECE);
    while data.len() < PIECE && file.read_buf(&mut data).await? > 0 {}
    Ok(data.freeze())
}

async fn say(
    transfers: &Transfers<'_>,
    parts: &mpsc::Sender<v1::StoreRequest>,
    part: Part,
) -> Result<(), Trouble> {
    let request = v1::StoreRequest { part: Some(part) };
    match transfers.soon(parts.send(request)).await? {
        Ok(()) => Ok(()),
        // Whoever stopped reading says why.
        Err(_) => transfers.soon(std::future::pending()).await,
    }
}
