//! Inputs and outputs of jobs, stored artifacts, and their digests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ParseWorkspacePathError, WorkspacePath};
use crate::hex;
use crate::id::{AttemptId, JobId};
use crate::job::TenantId;

/// An input of a job: an artifact of another job of its tenant, put into its workspace before it starts.
///
/// As text, `JOB/NAME`, or `JOB/NAME:PATH` to put it at another path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ArtifactInput {
    /// The job that stored it.
    pub job: JobId,
    /// Its path in the workspace of that job.
    pub name: WorkspacePath,
    /// Its path in the workspace of the job that gets it.
    pub path: WorkspacePath,
}

/// An output of a job: a file of its workspace to keep, or a directory whose files are all kept.
///
/// As text, `PATH`, or `PATH:always` to keep it after a failure too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ArtifactOutput {
    /// Its path. A job that succeeds without a file there fails.
    pub path: WorkspacePath,
    /// Whether it is kept after a failed attempt too; a missing file is then skipped.
    pub on_failure: bool,
}

/// A stored file or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its path in the workspace.
    pub name: WorkspacePath,
    /// Length of its content, in bytes.
    pub bytes: u64,
    /// Digest of its content.
    pub sha256: Digest,
    /// Its permissions, the low nine bits; `None` for a link, and for artifacts that an older version stored without
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Whether it is a symbolic link. Then its content is its target, which is inside the workspace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_link: bool,
}

/// The key of a stored artifact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArtifactKey {
    /// Tenant that owns it.
    pub tenant: TenantId,
    /// The attempt that stored it.
    pub attempt: AttemptId,
    /// Its path in the workspace.
    pub name: WorkspacePath,
}

impl fmt::Display for ArtifactKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` of {}", self.name, self.attempt)
    }
}

/// A SHA-256 digest; as text 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps the bytes of a digest.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        hex::read(text).map(Self).ok_or(ParseDigestError)
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, ParseDigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// The text is not a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256: write its 64 hexadecimal digits")]
pub struct ParseDigestError;

impl FromStr for ArtifactInput {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not an artifact of a job: write JOB/NAME or JOB/NAME:PATH, and `\\:` for a colon in a name"
            )
        };
        let (job, rest) = text.split_once('/').ok_or_else(wrong)?;
        let job = job.parse().map_err(|_| wrong())?;
        let (name, path) = split_at_colon(rest);
        Ok(Self { job, name: unescape(name)?, path: unescape(path.unwrap_or(name))? })
    }
}

impl fmt::Display for ArtifactInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.job, escape(&self.name), escape(&self.path))
    }
}

/// Splits a text at the first colon that is not escaped by a backslash.
fn split_at_colon(text: &str) -> (&str, Option<&str>) {
    let mut is_escaped = false;
    for (at, char) in text.char_indices() {
        match char {
            ':' if !is_escaped => return (&text[..at], Some(&text[at + 1..])),
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    (text, None)
}

/// Reads a path in which `\:` stands for a colon and `\\` for a backslash; any other backslash stands for itself.
fn unescape(text: &str) -> Result<WorkspacePath, String> {
    let (mut path, mut chars) = (String::with_capacity(text.len()), text.chars().peekable());
    while let Some(char) = chars.next() {
        let escaped = chars.next_if(|next| char == '\\' && matches!(next, ':' | '\\'));
        path.push(escaped.unwrap_or(char));
    }
    path.parse().map_err(|error: ParseWorkspacePathError| error.to_string())
}

fn escape(path: &WorkspacePath) -> String {
    path.as_str().replace('\\', "\\\\").replace(':', "\\:")
}

impl FromStr for ArtifactOutput {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, on_failure) = match split_at_colon(text) {
            (path, None) => (path, false),
            (path, Some("always")) => (path, true),
            _ => {
                return Err(format!(
                    "`{text}` is not an output: write PATH or PATH:always, and `\\:` for a colon in a path"
                ));
            }
        };
        Ok(Self { path: unescape(path)?, on_failure })
    }
}

impl fmt::Display for ArtifactOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", escape(&self.path), if self.on_failure { ":always" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_and_outputs_round_trip_as_text() {
        let job = JobId::from_uuid(uuid::Uuid::from_u128(7));
        let input: ArtifactInput = format!("{job}/out/a.txt").parse().unwrap();
        assert_eq!(input.to_string(), format!("{job}/out/a.txt:out/a.txt"));
        assert_eq!(input.to_string().parse(), Ok(input));
        for text in ["a", "a/b", &format!("{job}/../b"), &format!("{job}/a:/etc/passwd"), &format!("{job}/")]
        {
            assert!(text.parse::<ArtifactInput>().is_err(), "{text}");
        }
        let named: ArtifactInput = format!(r"{job}/a\:b:in/12\:30.log").parse().unwrap();
        assert_eq!((named.name.as_str(), named.path.as_str()), ("a:b", "in/12:30.log"));
        assert_eq!(named.to_string().parse(), Ok(named));
        for name in [r"a\", r"a\\", r"\:", r"a\b:c", ":", r"\\:\"] {
            let path: WorkspacePath = name.parse().unwrap();
            let input = ArtifactInput { job, name: path.clone(), path: path.clone() };
            assert_eq!(input.to_string().parse(), Ok(input), "{name}");
            let output = ArtifactOutput { path, on_failure: true };
            assert_eq!(output.to_string().parse(), Ok(output), "{name}");
        }
        for text in ["out", "out/a:always", r"12\:30.log", r"a\:always:always"] {
            assert_eq!(text.parse::<ArtifactOutput>().unwrap().to_string(), text);
        }
        assert!("out:never".parse::<ArtifactOutput>().is_err() && "/out".parse::<ArtifactOutput>().is_err());
    }

    #[test]
    fn a_digest_round_trips_as_text() {
        let digest = Digest::from_bytes(std::array::from_fn(|n| n as u8 * 7));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("00".parse::<Digest>(), Err(ParseDigestError));
    }
}
