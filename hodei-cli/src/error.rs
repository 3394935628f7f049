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
    #[error("the platform in this program has stopped: the lines above say why, and nothing more is kept")]
    Stopped,
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("command is empty: write `-- PROGRAM ARGUMENTS`, `--shell LINE` or `--script FILE` (see --help)")]
    Nothing,
    #[error(
        "the daemon at {0} wants its token, which it keeps in the file `token` of its data directory: name that with --token-file or HODEI_TOKEN_FILE, or put the token in HODEI_TOKEN"
    )]
    NoToken(String),
    #[error("{0}: `hodei job retry --force {1}` makes another all the same")]
    StillOpen(hodei_sdk::Error, JobId),
    #[error("{from}: {why}")]
    Token { from: String, why: String },
    #[error("{name}: {error}")]
    Source { name: String, error: io::Error },
    #[error("the jobs come from a file (--from) or from these options, not from both")]
    TwoSources,
    #[error("standard input cannot be read: {0}")]
    Stdin(io::Error),
    #[error(
        "a value from a terminal is one line of up to 4,094 bytes: give others by `hodei secret put {0} < FILE`"
    )]
    LongLine(SecretName),
    #[error("{0} has bytes that are not UTF-8, which no job can be given")]
    NotText(String),
    #[error("argument {number} has bytes that are not UTF-8: {shown}")]
    Argument { number: usize, shown: String },
    #[error("the job ended, and standard output cannot take its JSON: {0}")]
    Result(io::Error),
    #[error("the output cannot be written: {0}")]
    Output(io::Error),
    #[error("{} has no jobs: it is not a data directory of Hodei", .0.display())]
    NoDataDir(PathBuf),
    #[error("{} is there already: --force writes over it, --to writes elsewhere", .0.display())]
    Exists(PathBuf),
    #[error("{} is no file: write to another, or with `--to -` to standard output", .0.display())]
    NoFile(PathBuf),
    #[error("--artifact keeps a file where the job is kept: say --data-dir DIR, or --server for a daemon")]
    NotKept,
    #[error(
        "--secret wants the place where `hodei secret put` put it: say --server for a daemon, or --data-dir DIR for its directory"
    )]
    NoSecretsHere,
    #[error("there is no secret `{0}`")]
    NoSecret(SecretName),
    #[error("the secret `{name}` was not put: its {error}")]
    SecretSize { name: SecretName, error: SecretSize },
    #[error("the runtime cannot start: {0}")]
    Runtime(io::Error),
}

impl CliError {
    /// 125, or 1 for an artifact that is not there.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Platform(hodei_sdk::Error::NoArtifact { .. }) => exit::MISSING,
            _ => exit::OWN_FAILURE,
        }
    }

    /// Of a retry: with the command that does it all the same.
    pub(crate) fn retry(error: hodei_sdk::Error, job: JobId) -> Self {
        match error {
            error @ hodei_sdk::Error::StillOpen { .. } => Self::StillOpen(error, job),
            error => Self::Platform(error),
        }
    }
}
