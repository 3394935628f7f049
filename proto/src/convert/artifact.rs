//! Artifacts, inputs and outputs: messages to domain and back.

use hodei_core::artifact::{Artifact, ArtifactInput, ArtifactOutput, Digest};

use super::{ConvertError, parse};
use crate::v1;

/// Returns the wire form of an artifact.
pub fn artifact_to_wire(artifact: &Artifact) -> v1::Artifact {
    let sha256 = bytes::Bytes::copy_from_slice(artifact.sha256.as_bytes());
    let Artifact { name, bytes, mode, is_link, .. } = artifact;
    v1::Artifact { name: name.to_string(), bytes: *bytes, sha256, mode: *mode, is_link: *is_link }
}

/// Reads the artifact of a message.
///
/// # Errors
/// [`ConvertError`] when the name is not valid, or the digest has not 32 bytes.
pub fn artifact_from_wire(message: &v1::Artifact) -> Result<Artifact, ConvertError> {
    let sha256 = <[u8; 32]>::try_from(&*message.sha256);
    Ok(Artifact {
        name: parse("artifact.name", &message.name)?,
        bytes: message.bytes,
        sha256: Digest::from_bytes(sha256.map_err(|_| ConvertError::Malformed("artifact.sha256"))?),
        mode: message.mode.map(|mode| mode & 0o777),
        is_link: message.is_link,
    })
}

pub(super) fn artifact_list_to_wire(artifacts: &[Artifact]) -> Vec<v1::Artifact> {
    artifacts.iter().map(artifact_to_wire).collect()
}

pub(super) fn artifact_list_from_wire(messages: &[v1::Artifact]) -> Result<Vec<Artifact>, ConvertError> {
    messages.iter().map(artifact_from_wire).collect()
}

pub(super) fn input_to_wire(input: &ArtifactInput) -> v1::ArtifactInput {
    let ArtifactInput { job, name, path } = input;
    v1::ArtifactInput { job_id: job.to_string(), name: name.to_string(), path: path.to_string() }
}

pub(super) fn input_from_wire(message: &v1::ArtifactInput) -> Result<ArtifactInput, ConvertError> {
    let path = if message.path.is_empty() { &message.name } else { &message.path };
    Ok(ArtifactInput {
        job: parse("inputs.job_id", &message.job_id)?,
        name: parse("inputs.name", &message.name)?,
        path: parse("inputs.path", path)?,
    })
}

pub(super) fn output_to_wire(output: &ArtifactOutput) -> v1::ArtifactOutput {
    v1::ArtifactOutput { path: output.path.to_string(), on_failure: output.on_failure }
}

pub(super) fn output_from_wire(message: &v1::ArtifactOutput) -> Result<ArtifactOutput, ConvertError> {
    Ok(ArtifactOutput { path: parse("outputs.path", &message.path)?, on_failure: message.on_failure })
}
