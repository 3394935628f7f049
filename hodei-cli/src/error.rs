use std::io;
use std::path::PathBuf;

use hodei_sdk::SpecError;

/// Why the command line itself failed; always exit code 125.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{0}")]
    Spec(#[from] SpecError),
    #[error("{0}")]
    Platform(#[from] hodei_sdk::Error),
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("standard input cannot be read: {0}")]
    Stdin(io::Error),
    #[error("{0} has bytes that are not UTF-8, which no job can be given")]
    NotText(String),
    #[error("the runtime cannot start: {0}")]
    Runtime(io::Error),
}
