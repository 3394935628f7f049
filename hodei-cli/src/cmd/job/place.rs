//! Where the jobs of a command are.

use std::path::{Path, PathBuf};

use clap::Args;
use hodei_sdk::id::JobId;

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Where the jobs are, as in `hodei run --data-dir`, when no daemon has them.
    #[arg(long, value_name = "DIR", env = "HODEI_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

impl Place {
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }
}

#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// The job.
    pub(super) id: JobId,
    #[command(flatten)]
    pub(super) place: Place,
}
