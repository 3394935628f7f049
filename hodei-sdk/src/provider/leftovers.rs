//! Clears what workers of this host left.

use std::path::PathBuf;
use std::time::Duration;

use hodei_agent::Leftovers;
use hodei_core::port::{Clock, ClockExt};

use crate::task::blocking;

/// A start and the end of a worker wait no longer for the removal of workspaces, however much jobs left in them.
const REMOVAL: Duration = Duration::from_secs(2);

/// Kills processes and wipes secrets, then removes workspaces: beside, where that takes longer than [`REMOVAL`]. What is
/// not removed before this process ends is found by its next start.
///
/// Not cancel safe: dropped, it goes on.
pub(super) async fn clear(clock: &dyn Clock, left: Leftovers, workspaces: PathBuf) {
    let left = blocking(move || {
        left.kill_and_wipe();
        left
    })
    .await;
    let removal = blocking(move || left.remove_workspaces(&workspaces));
    if clock.timeout(REMOVAL, removal).await.is_err() {
        tracing::info!("the removal of workspaces that are left takes longer and goes on beside");
    }
}
