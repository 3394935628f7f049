//! Cleanup of the processes, secrets and workspaces that workers of this host left.

use std::path::PathBuf;
use std::time::Duration;

use hodei_agent::Leftovers;
use hodei_core::port::{Clock, ClockExt};

use crate::task::blocking;

/// Longest time that a start, or the end of a worker, waits for the removal of workspaces, however large they are.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Kills processes and wipes secrets, then removes workspaces; a removal that takes longer than [`REMOVAL_TIMEOUT`]
/// continues in the background. If this process ends first, the next start removes the rest.
///
/// Not cancel safe: the work continues after a drop.
pub(super) async fn clear(clock: &dyn Clock, left: Leftovers, workspaces: PathBuf) {
    let left = blocking(move || {
        left.kill_and_wipe();
        left
    })
    .await;
    let removal = blocking(move || left.remove_workspaces(&workspaces));
    if clock.timeout(REMOVAL_TIMEOUT, removal).await.is_err() {
        tracing::info!("the removal of leftover workspaces continues in the background");
    }
}
