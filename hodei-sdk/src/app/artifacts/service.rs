//! Service for artifacts: access checks for clients and workers, downloads and uploads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hodei_agent::{ArtifactParts, TransferError};
use hodei_core::access::Caller;
use hodei_core::artifact::{Artifact, ArtifactInput, ArtifactKey, WorkspacePath};
use hodei_core::id::{AttemptId, JobId, WorkerId};
use hodei_core::job::{Job, JobSpec, TenantId};
use hodei_core::port::{ArtifactContent, ArtifactError, ArtifactStore, Clock, ClockExt, StoreError};
use hodei_proto::v1::artifact_part::Part;
use hodei_proto::v1::store_request::Part as Sent;
use hodei_proto::{convert, v1};

use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::app::access::authorizer::Authorizer;
use crate::app::ports::Ports;
use crate::error::InputRefusal;
use crate::seam::{ArtifactReader, ArtifactSeam, Measure};
use crate::task::Tasks;

/// Reads and stores artifacts, for clients and for the jobs of workers.
#[derive(Debug, Clone)]
pub(crate) struct ArtifactService {
    /// `None` when no artifact store is configured.
    pub(crate) artifacts: Option<Arc<dyn ArtifactStore>>,
    pub(crate) ports: Arc<Ports>,
    pub(crate) authorizer: Authorizer,
}

/// Parts of a download that may queue before the agent takes them.
const MAX_QUEUED_PARTS: usize = 4;
/// Time without a message after which an upload of an agent counts as broken off.
const UPLOAD_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

#[async_trait]
impl ArtifactSeam for ArtifactService {
    async fn get(&self, caller: &Caller, job: JobId, name: &WorkspacePath) -> Result<ArtifactReader, Error> {
        let (found, artifact) = self.find(&caller.tenant, job, name).await?;
        let content = self.open(&found, name).await?.ok_or_else(|| missing_content(name))?;
        Ok(ArtifactReader::new(artifact, content))
    }
}

impl ArtifactService {
    /// Returns a job of the tenant, and the artifact as its report describes it.
    async fn find(
        &self,
        tenant: &TenantId,
        job: JobId,
        name: &WorkspacePath,
    ) -> Result<(Arc<Job>, Artifact), Error> {
        let found = self.ports.store.jobs(&[job]).await?.pop().flatten();
        let found = found.filter(|job| job.tenant() == tenant).ok_or(Error::NotFound(job))?;
        let artifact = artifact_of(&found, name);
        let artifact = artifact.ok_or_else(|| Error::NoArtifact { job, name: name.clone() })?;
        Ok((found, artifact))
    }

    async fn open(&self, job: &Job, name: &WorkspacePath) -> Result<Option<ArtifactContent>, Error> {
        let store = self.artifacts.as_ref().ok_or(Error::ArtifactsDisabled)?;
        Ok(store.get(&key(job, name)).await?)
    }

    /// Returns for each spec the error that its artifacts cause at a submit, if any. Empty when no spec has artifacts.
    pub(crate) async fn refusals(
        &self,
        tenant: &TenantId,
        specs: &[&JobSpec],
    ) -> Result<Vec<Option<Error>>, Error> {
        let has_any = |spec: &&JobSpec| !spec.inputs().is_empty() || !spec.outputs().is_empty();
        if !specs.iter().any(has_any) {
            return Ok(Vec::new());
        }
        let mut sources: Vec<JobId> =
            specs.iter().flat_map(|spec| spec.inputs()).map(|input| input.job).collect();
        sources.sort_unstable();
        sources.dedup();
        let found = self.ports.store.jobs(&sources).await?.into_iter().flatten();
        let found = found.filter(|job| job.tenant() == tenant).map(|job| (job.id(), job));
        let found: BTreeMap<JobId, Arc<Job>> = found.collect();
        let refused = |input: &ArtifactInput| match found.get(&input.job) {
            None => Some(InputRefusal::NoJob),
            Some(job) if !job.is_terminal() => Some(InputRefusal::NotEnded(job.status())),
            Some(job) => artifact_of(job, &input.name).is_none().then_some(InputRefusal::NoArtifact),
        };
        let refusal = |spec: &&JobSpec| {
            if self.artifacts.is_none() && has_any(spec) {
                return Some(Error::ArtifactsDisabled);
            }
            spec.inputs().iter().find_map(|input| {
                refused(input).map(|why| Error::InputRefused {
                    job: input.job,
                    name: input.name.clone(),
                    why,
                })
            })
        };
        Ok(specs.iter().map(refusal).collect())
    }

    /// Opens the download of an input of an attempt, which the worker must hold.
    pub(crate) async fn fetch(
        &self,
        worker: WorkerId,
        request: v1::FetchRequest,
        tasks: &Tasks,
    ) -> Result<ArtifactParts, TransferError> {
        let job = self.held_job(worker, request.attempt.as_ref()).await?;
        let input = job.spec().inputs().iter().find(|input| input.path.as_str() == request.path);
        let refused = |why: String| TransferError::Refused(why);
        let input = input.ok_or_else(|| refused(format!("`{}` is not an input of the job", request.path)))?;
        let (source, artifact) = self.find(job.tenant(), input.job, &input.name).await.map_err(not_found)?;
        let opened = self.open(&source, &input.name).await.map_err(not_opened)?;
        let mut content =
            opened.ok_or_else(|| TransferError::Broken(missing_content(&input.name).to_string()))?;
        let (parts, to_agent) = mpsc::channel(MAX_QUEUED_PARTS);
        tasks.spawn("artifact for a worker", async move {
            let begin = Part::Artifact(convert::artifact_to_wire(&artifact));
            if parts.send(Ok(v1::ArtifactPart { part: Some(begin) })).await.is_err() {
                return;
            }
            while let Some(piece) = content.next().await {
                let part = piece.map(|data| v1::ArtifactPart { part: Some(Part::Data(data)) });
                if parts.send(part.map_err(transfer_error)).await.is_err() {
                    return;
                }
            }
        });
        Ok(to_agent)
    }

    /// Stores an output of an attempt, which the worker must hold.
    pub(crate) async fn store(
        &self,
        worker: WorkerId,
        mut requests: mpsc::Receiver<v1::StoreRequest>,
        tasks: &Tasks,
    ) -> Result<(), TransferError> {
        let refused = |why: String| TransferError::Refused(why);
        let first = self.ports.clock.timeout(UPLOAD_IDLE_TIMEOUT, requests.recv()).await.ok().flatten();
        let Some(Sent::Begin(begin)) = first.and_then(|request| request.part) else {
            return Err(refused("the first message of an artifact must be its description".into()));
        };
        let job = self.held_job(worker, begin.attempt.as_ref()).await?;
        let name: WorkspacePath =
            convert::parse("name", &begin.name).map_err(|error| refused(error.to_string()))?;
        let is_kept = |path: &WorkspacePath| name == *path || name.is_beneath(path);
        if !job.spec().outputs().iter().any(|output| is_kept(&output.path)) {
            return Err(refused(format!("`{name}` is not an output of the job")));
        }
        if begin.bytes > self.ports.settings.artifact_limit {
            return Err(refused(too_long(&name, self.ports.settings.artifact_limit)));
        }
        let store = self.artifacts.clone();
        let store = store.ok_or_else(|| TransferError::Broken(Error::ArtifactsDisabled.to_string()))?;
        let (clock, limit) = (self.ports.clock.clone(), self.ports.settings.artifact_limit);
        let upload = Upload { requests, clock, limit, name: name.clone(), measure: Measure::default() };
        let (done, stored) = oneshot::channel();
        // On its own task, which runs to the end without its caller: the upload must be stored or rolled back.
        tasks.spawn("artifact of a worker", async move {
            let _ = done.send(store.put(&key(&job, &name), upload.content()).await);
        });
        let stopped = |_| TransferError::Unavailable("the platform is shutting down".into());
        stored.await.map_err(stopped)?.map_err(transfer_error)
    }

    /// Returns the job of an attempt, which the worker must hold now.
    ///
    /// # Errors
    /// `TransferError::Fenced` when the worker does not hold it; other errors when the id is invalid or the store
    /// fails.
    async fn held_job(
        &self,
        worker: WorkerId,
        attempt: Option<&v1::AttemptRef>,
    ) -> Result<Arc<Job>, TransferError> {
        let unavailable = |error: StoreError| TransferError::Unavailable(error.to_string());
        let attempt: AttemptId =
            convert::attempt_id(attempt).map_err(|error| TransferError::Refused(error.to_string()))?;
        let is_its = |job: &Arc<Job>| job.is_held_by(worker, attempt);
        // The remembered state may be older than the stored one.
        let recent = self.ports.store.recent_jobs(&[attempt.job]).await.map_err(unavailable)?.pop().flatten();
        if let Some(job) = recent.filter(is_its) {
            return Ok(job);
        }
        let stored = self.ports.store.jobs(&[attempt.job]).await.map_err(unavailable)?.pop().flatten();
        stored.filter(is_its).ok_or_else(|| {
            self.authorizer.refuse_foreign_attempt(worker, attempt);
            TransferError::Fenced
        })
    }
}

fn artifact_of(job: &Job, name: &WorkspacePath) -> Option<Artifact> {
    job.artifacts().iter().find(|artifact| artifact.name == *name).cloned()
}

fn key(job: &Job, name: &WorkspacePath) -> ArtifactKey {
    ArtifactKey { tenant: job.tenant().clone(), attempt: job.attempt_id(), name: name.clone() }
}

/// Returns the error for an artifact that the report of a job lists and the artifact store does not have.
fn missing_content(name: &WorkspacePath) -> ArtifactError {
    ArtifactError::Refused(format!("`{name}` was stored, and the artifact store does not have it any more"))
}

/// Converts an error of finding an artifact. The agent retries while the store is unavailable; a missing artifact is
/// the job's own mistake.
fn not_found(error: Error) -> TransferError {
    match error {
        Error::Store(_) => TransferError::Unavailable(error.to_string()),
        error => TransferError::Refused(error.to_string()),
    }
}

fn not_opened(error: Error) -> TransferError {
    match error {
        Error::ArtifactStore(error) => transfer_error(error),
        error => TransferError::Broken(error.to_string()),
    }
}

fn too_long(name: &WorkspacePath, limit: u64) -> String {
    format!("`{name}` is over the limit of {limit} bytes for an artifact")
}

fn transfer_error(error: ArtifactError) -> TransferError {
    match error {
        ArtifactError::Refused(why) => TransferError::Refused(why),
        ArtifactError::Full(_) => TransferError::Broken(error.to_string()),
        error => TransferError::Unavailable(error.to_string()),
    }
}

/// Upload of an agent, checked on its way into the store.
struct Upload {
    requests: mpsc::Receiver<v1::StoreRequest>,
    clock: Arc<dyn Clock>,
    limit: u64,
    name: WorkspacePath,
    measure: Measure,
}

impl Upload {
    fn content(self) -> ArtifactContent {
        stream::try_unfold(self, async |mut upload: Upload| {
            Ok(upload.next().await?.map(|data| (data, upload)))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ArtifactError> {
        let incomplete =
            || ArtifactError::Unavailable(format!("the upload of `{}` was incomplete", self.name));
        let next = self.clock.timeout(UPLOAD_IDLE_TIMEOUT, self.requests.recv()).await;
        match next.ok().flatten().and_then(|request| request.part).ok_or_else(incomplete)? {
            Sent::Begin(_) => Err(incomplete()),
            Sent::Data(data) => {
                self.measure.add(&data);
                if self.measure.bytes > self.limit {
                    return Err(ArtifactError::Refused(too_long(&self.name, self.limit)));
                }
                Ok(Some(data))
            }
            Sent::End(end) if self.measure.is(end.bytes, &end.sha256) => Ok(None),
            Sent::End(_) => Err(incomplete()),
        }
    }
}
