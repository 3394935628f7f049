//! Stores the outputs of an attempt.

use std::io;
use std::path::Path;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use hodei_core::artifact::{Artifact, Digest, WorkspacePath};
use hodei_core::port::ClockExt;
use hodei_proto::v1::store_request::Part;
use hodei_proto::{convert, v1};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::beneath::{self, Found};
use super::listing::{Keepable, why_not};
use super::{PIECE_BYTES, STORE_ACK_TIMEOUT, Transfers, TryError};
use crate::connection::TransferError;

/// Stores one file or link.
pub(super) async fn store(
    transfers: &Transfers<'_>,
    workspace: &Path,
    keepable: &Keepable,
) -> Result<Artifact, TryError> {
    let path = &keepable.path;
    let content = Content::open(workspace, keepable).map_err(|error| unreadable(path, &error))?;
    let (parts, requests) = mpsc::channel(4);
    let mut storing = pin!(transfers.channel.store(requests));
    let mut sending = pin!(send(transfers, parts, content, path));
    let artifact = tokio::select! {
        biased;
        early = &mut storing => {
            let ended = || TransferError::Unavailable("the store ended the transfer early".into());
            return Err(early.err().unwrap_or_else(ended).into());
        }
        sent = &mut sending => sent?,
    };
    let late = |_| TransferError::Unavailable("the store did not confirm in time".into());
    transfers.clock.timeout(STORE_ACK_TIMEOUT, storing).await.map_err(late)??;
    Ok(artifact)
}

/// Builds the error for a file that cannot be read.
fn unreadable(path: &WorkspacePath, error: &io::Error) -> TryError {
    TryError::Unreadable(why_not(path, error))
}

/// The content of an artifact.
enum Content {
    File { file: tokio::fs::File, bytes: u64, mode: u32 },
    Link(Bytes),
}

impl Content {
    fn open(workspace: &Path, keepable: &Keepable) -> io::Result<Self> {
        if let Some(target) = &keepable.link {
            return Ok(Self::Link(Bytes::copy_from_slice(target.as_bytes())));
        }
        match beneath::open(workspace, &keepable.path, keepable.is_named)? {
            Found::File(file, bytes, mode) => Ok(Self::File { file: file.into(), bytes, mode }),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::File { bytes, .. } => *bytes,
            Self::Link(target) => target.len() as u64,
        }
    }

    /// Reads the next piece, empty at the end.
    async fn piece(&mut self) -> io::Result<Bytes> {
        match self {
            Self::File { bytes: 0, file, .. } => read(file, 1).await,
            Self::File { file, .. } => read(file, PIECE_BYTES).await,
            Self::Link(target) => Ok(std::mem::take(target)),
        }
    }
}

async fn read(file: &mut tokio::fs::File, most: usize) -> io::Result<Bytes> {
    let mut data = BytesMut::with_capacity(most);
    while data.len() < most && file.read_buf(&mut data).await? > 0 {}
    Ok(data.freeze())
}

async fn send(
    transfers: &Transfers<'_>,
    parts: mpsc::Sender<v1::StoreRequest>,
    mut content: Content,
    path: &WorkspacePath,
) -> Result<Artifact, TryError> {
    let attempt = Some(convert::attempt_ref(transfers.attempt));
    let begin = v1::StoreBegin { attempt, name: path.to_string(), bytes: content.bytes() };
    send_part(transfers, &parts, Part::Begin(begin)).await?;
    let (mut count, mut hash) = (0_u64, Sha256::new());
    loop {
        let data = content.piece().await.map_err(|error| unreadable(path, &error))?;
        if data.is_empty() {
            break;
        }
        count += data.len() as u64;
        hash.update(&data);
        send_part(transfers, &parts, Part::Data(data)).await?;
        transfers.moved();
    }
    let sha256 = Digest::from_bytes(hash.finalize().into());
    let (mode, is_link) = match content {
        Content::File { mode, .. } => (Some(mode), false),
        Content::Link(_) => (None, true),
    };
    let artifact = Artifact { name: path.clone(), bytes: count, sha256, mode, is_link };
    send_part(transfers, &parts, Part::End(convert::artifact_to_wire(&artifact))).await?;
    Ok(artifact)
}

async fn send_part(
    transfers: &Transfers<'_>,
    parts: &mpsc::Sender<v1::StoreRequest>,
    part: Part,
) -> Result<(), TryError> {
    let request = v1::StoreRequest { part: Some(part) };
    match transfers.soon(parts.send(request)).await? {
        Ok(()) => Ok(()),
        // The result of the call, which dropped the channel, states the reason.
        Err(_) => transfers.soon(std::future::pending()).await,
    }
}
