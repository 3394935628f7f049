//! Options that say which job a command means, and where it is.

use std::path::{Path, PathBuf};

use clap::Args;
use hodei_sdk::id::JobId;

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Use the jobs of this data directory, as of `hodei run --data-dir`, instead of a daemon's.
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
    /// Id of the job.
    pub(super) id: JobId,
    #[command(flatten)]
    pub(super) place: Place,
}
