//! Artifacts in a directory or in cloud storage.

use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use hodei_core::artifact::{ArtifactKey, Digest};
use hodei_core::id::JobId;
use hodei_core::job::TenantId;
use hodei_core::port::{ArtifactContent, ArtifactError, ArtifactStore};
use object_store::local::LocalFileSystem;
use object_store::path::{Path, PathPart};
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::error::OpenError;
use crate::task::blocking;

/// An artifact store in a directory, or in a cloud bucket (feature `cloud`).
///
/// The name of an object is `TENANT/JOB/ATTEMPT/` and the SHA-256 of the artifact's name, because that name may be
/// longer than file names may be.
#[derive(Clone)]
pub struct ObjectArtifacts {
    objects: Arc<dyn ObjectStore>,
    below: Path,
    place: String,
    /// The directory, if it is one.
    dir: Option<PathBuf>,
}

/// Size of an upload part; clouds require at least 5 MiB for every part except the last.
const UPLOAD_PART_BYTES: usize = 8 << 20;
/// Maximum number of parts that are uploaded concurrently.
const MAX_CONCURRENT_PARTS: usize = 4;
/// Minimum size of the pieces that a read returns.
const MIN_READ_PIECE_BYTES: usize = 256 << 10;

impl ObjectArtifacts {
    /// Opens the store at a place: `dir:PATH`, which is created if missing, or `s3://BUCKET/PATH`, `gs://BUCKET/PATH`
    /// or `az://CONTAINER/PATH`. Cloud credentials come from the environment, as for the cloud's own tools
    /// (`AWS_ACCESS_KEY_ID` and so on).
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the place.
    pub fn open(place: &str) -> Result<Self, OpenError> {
        if let Some(dir) = place.strip_prefix("dir:").filter(|dir| !dir.is_empty()) {
            return Self::local(dir);
        }
        let unknown = || OpenError::Artifacts { place: place.to_owned() };
        let url = Url::parse(place).map_err(|_| unknown())?;
        if !matches!(url.scheme(), "s3" | "gs" | "az") {
            return Err(unknown());
        }
        cloud(place, &url)
    }

    /// Opens the store in a directory. A missing directory is created for its user alone.
    ///
    /// # Errors
    /// [`OpenError::File`].
    pub fn local(dir: impl AsRef<FilePath>) -> Result<Self, OpenError> {
        let dir = dir.as_ref();
        let failed = |source: std::io::Error| OpenError::File { path: dir.to_owned(), source };
        // Artifacts of jobs are private, wherever the directory is.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(failed)?;
        let objects =
            LocalFileSystem::new_with_prefix(dir).map_err(|error| failed(std::io::Error::other(error)))?;
        let objects = Arc::new(objects.with_fsync(true).with_automatic_cleanup(true));
        let (below, place) = (Path::default(), dir.display().to_string());
        Ok(Self { objects, below, place, dir: Some(dir.to_owned()) })
    }

    fn of_job(&self, tenant: &TenantId, job: JobId) -> Path {
        let parts = [tenant.to_string(), job.to_string()];
        self.below.parts().chain(parts.iter().map(|part| PathPart::from(part.as_str()))).collect()
    }

    fn path(&self, key: &ArtifactKey) -> Path {
        let name = Digest::from_bytes(Sha256::digest(key.name.as_str()).into()).to_string();
        self.of_job(&key.tenant, key.attempt.job).join(key.attempt.number.to_string()).join(name)
    }
}

#[cfg(feature = "cloud")]
fn cloud(place: &str, url: &Url) -> Result<ObjectArtifacts, OpenError> {
    // Another part of the program may have installed a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Pass only the variables that configure a cloud.
    let is_for_clouds = |name: &str| ["aws_", "google_", "azure_"].iter().any(|of| name.starts_with(of));
    let settings = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.to_str()?.to_ascii_lowercase();
        is_for_clouds(&name).then_some((name, value.into_string().ok()?))
    });
    let opened = object_store::parse_url_opts(url, settings);
    let (objects, below) =
        opened.map_err(|error| OpenError::Cloud { place: place.to_owned(), why: error.to_string() })?;
    Ok(ObjectArtifacts { objects: objects.into(), below, place: place.to_owned(), dir: None })
}

#[cfg(not(feature = "cloud"))]
fn cloud(place: &str, _: &Url) -> Result<ObjectArtifacts, OpenError> {
    Err(OpenError::Feature { url: place.to_owned(), feature: "cloud" })
}

impl fmt::Debug for ObjectArtifacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectArtifacts").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Converts an error into a temporary one: an operator can fix the cause, and waiting callers retry.
fn unavailable(error: object_store::Error) -> ArtifactError {
    ArtifactError::Unavailable(error.to_string())
}

#[async_trait]
impl ArtifactStore for ObjectArtifacts {
    async fn put(&self, key: &ArtifactKey, mut content: ArtifactContent) -> Result<(), ArtifactError> {
        let path = self.path(key);
        let mut first = BytesMut::new();
        while first.len() < UPLOAD_PART_BYTES {
            match content.try_next().await? {
                Some(piece) => first.extend_from_slice(&piece),
                None => {
                    let whole = PutPayload::from(first.freeze());
                    return self.objects.put(&path, whole).await.map(drop).map_err(unavailable);
                }
            }
        }
        let upload = self.objects.put_multipart(&path).await.map_err(unavailable)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, UPLOAD_PART_BYTES);
        upload.put(first.freeze());
        loop {
            let next = match upload.wait_for_capacity(MAX_CONCURRENT_PARTS).await {
                Ok(()) => content.try_next().await,
                Err(error) => Err(unavailable(error)),
            };
            match next {
                Ok(Some(piece)) => upload.put(piece),
                Ok(None) => return upload.finish().await.map(drop).map_err(unavailable),
                Err(error) => {
                    if let Err(error) = upload.abort().await {
                        tracing::debug!(%error, "the parts of an aborted upload cannot be removed");
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn get(&self, key: &ArtifactKey) -> Result<Option<ArtifactContent>, ArtifactError> {
        match self.objects.get(&self.path(key)).await {
            Ok(found) => Ok(Some(in_pieces(found.into_stream().map_err(unavailable).boxed()))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn remove(&self, tenant: &TenantId, jobs: &[JobId]) -> Result<(), ArtifactError> {
        for job in jobs {
            let found = self.objects.list(Some(&self.of_job(tenant, *job)));
            let paths = found.map_ok(|object| object.location).boxed();
            let mut removed = self.objects.delete_stream(paths);
            while let Some(one) = removed.next().await {
                match one {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(unavailable(error)),
                }
            }
            // This also removes unfinished uploads, which are not objects.
            if let Some(dir) = &self.dir {
                let dir = dir.join(self.of_job(tenant, *job).as_ref());
                blocking(move || std::fs::remove_dir_all(dir)).await.or_else(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => Ok(()),
                    _ => Err(ArtifactError::Unavailable(error.to_string())),
                })?;
            }
        }
        Ok(())
    }
}

/// Joins small pieces: a directory is read in pieces of 8 KiB.
fn in_pieces(content: ArtifactContent) -> ArtifactContent {
    let next = async |mut content: ArtifactContent| {
        let mut piece = BytesMut::new();
        while piece.len() < MIN_READ_PIECE_BYTES {
            match content.try_next().await? {
                Some(more) if piece.is_empty() && more.len() >= MIN_READ_PIECE_BYTES => {
                    return Ok(Some((more, content)));
                }
                Some(more) => piece.extend_from_slice(&more),
                None => break,
            }
        }
        Ok::<_, ArtifactError>((!piece.is_empty()).then(|| (Bytes::from(piece), content)))
    };
    stream::try_unfold(content, next).boxed()
}
