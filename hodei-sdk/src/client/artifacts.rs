//! The artifact seam of the client: reads an artifact from a daemon.

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hodei_core::access::Caller;
use hodei_core::artifact::WorkspacePath;
use hodei_core::id::JobId;
use hodei_core::port::{ArtifactContent, ArtifactError};
use hodei_proto::convert::artifact_from_wire;
use hodei_proto::v1::artifact_part::Part;
use hodei_proto::v1::{self, ArtifactPart};
use tonic::{Status, Streaming};

use super::DaemonClient;
use crate::error::Error;
use crate::seam::{ArtifactReader, ArtifactSeam};
use crate::wire::refusal::error_of;

#[async_trait]
impl ArtifactSeam for DaemonClient {
    /// If the daemon goes away during the read, the reader fails and the caller starts over.
    async fn get(&self, _: &Caller, job: JobId, name: &WorkspacePath) -> Result<ArtifactReader, Error> {
        let request = v1::GetArtifactRequest { job_id: job.to_string(), name: name.to_string() };
        let mut answers = self.call(|| async { self.job_stub().get_artifact(request.clone()).await }).await?;
        let first = answers.message().await.map_err(|status| error_of(&status))?;
        let Some(Part::Artifact(artifact)) = first.and_then(part) else {
            return Err(self.malformed(&"the first part of an artifact is not its description"));
        };
        let artifact = artifact_from_wire(&artifact).map_err(|error| self.malformed(&error))?;
        Ok(ArtifactReader::new(artifact, content(answers)))
    }
}

fn part(answer: v1::GetArtifactResponse) -> Option<Part> {
    answer.part.and_then(|ArtifactPart { part }| part)
}

fn content(answers: Streaming<v1::GetArtifactResponse>) -> ArtifactContent {
    fn broke(status: Status) -> ArtifactError {
        ArtifactError::Unavailable(status.message().to_owned())
    }
    let next = async |mut answers: Streaming<v1::GetArtifactResponse>| {
        let answer = answers.message().await.map_err(broke)?;
        match answer.map(part) {
            None => Ok(None),
            Some(Some(Part::Data(data))) => Ok(Some((data, answers))),
            Some(_) => Err(ArtifactError::Unavailable(
                "the daemon sent a part that is not content: get the artifact again".into(),
            )),
        }
    };
    stream::try_unfold(answers, next).boxed()
}
