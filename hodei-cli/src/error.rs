//! Errors of the command line itself, and their exit codes.

use std::io;
use std::path::PathBuf;

use hodei_sdk::id::JobId;
use hodei_sdk::secret::SecretSize;
use hodei_sdk::{SecretName, SpecError};

use crate::exit;

/// Why the command line itself failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{0}")]
    Spec(#[from] SpecError),
    #[error("{0}")]
    Platform(#[from] hodei_sdk::Error),
    #[error("the platform in this program has stopped and keeps nothing more: the lines above say why")]
    Stopped,
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("command is empty: write `-- PROGRAM ARGUMENTS`, `--shell LINE` or `--script FILE` (see --help)")]
    Nothing,
    #[error(
        "the daemon at {0} requires its token, which is in the file `token` of its data directory: name that file with --token-file or HODEI_TOKEN_FILE, or put the token in HODEI_TOKEN"
    )]
    NoToken(String),
    #[error("{0}: `hodei job retry --force {1}` submits another anyway")]
    StillOpen(hodei_sdk::Error, JobId),
    #[error("{from}: {why}")]
    Token { from: String, why: String },
    #[error("{name}: {error}")]
    Source { name: String, error: io::Error },
    #[error(
        "--from cannot be used with options that describe a job: describe the jobs in the file, or leave --from out"
    )]
    TwoSources,
    #[error("standard input cannot be read: {0}")]
    Stdin(io::Error),
    #[error(
        "a value from a terminal is one line of at most 4,094 bytes: for any other value, run `hodei secret put {0} < FILE`"
    )]
    LongLine(SecretName),
    #[error("{0} has bytes that are not UTF-8: save the script as UTF-8")]
    NotText(String),
    #[error("argument {number} has bytes that are not UTF-8: {shown}")]
    Argument { number: usize, shown: String },
    #[error("the job ended, but its JSON cannot be written to standard output: {0}")]
    Result(io::Error),
    #[error("the output cannot be written: {0}")]
    Output(io::Error),
    #[error("{} is not a data directory of Hodei, since it has no file hodei.db: name another", .0.display())]
    NoDataDir(PathBuf),
    #[error("{} already exists: overwrite it with --force, or name another file with --to", .0.display())]
    Exists(PathBuf),
    #[error("{} is not a regular file: name another with --to, or write to standard output with `--to -`", .0.display())]
    NoFile(PathBuf),
    #[error("--artifact needs a place that keeps the job: add --data-dir DIR, or --server URL for a daemon")]
    NotKept,
    #[error(
        "--secret needs the place where `hodei secret put` stored the secret: add --server URL for a daemon, or --data-dir DIR for a data directory"
    )]
    NoSecretsHere,
    #[error("there is no secret `{0}`: `hodei secret list` shows the names")]
    NoSecret(SecretName),
    #[error("the secret `{name}` was not stored: its {error}")]
    SecretSize { name: SecretName, error: SecretSize },
    #[error("the runtime cannot start: {0}")]
    Runtime(io::Error),
}

impl CliError {
    /// Returns 125, or 1 for a missing artifact.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Platform(hodei_sdk::Error::NoArtifact { .. }) => exit::MISSING,
            _ => exit::OWN_FAILURE,
        }
    }

    /// Wraps the error of a retry; for an open job it names the command that submits another anyway.
    pub(crate) fn retry(error: hodei_sdk::Error, job: JobId) -> Self {
        match error {
            error @ hodei_sdk::Error::StillOpen { .. } => Self::StillOpen(error, job),
            error => Self::Platform(error),
        }
    }
}
