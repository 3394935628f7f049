//! What jobs leave behind comes to the agent, which sees it to its end.

use std::io;
use std::time::Duration;

use hodei_core::port::Clock;
use rustix::process::{getpid, set_child_subreaper};
use tokio::signal::unix::{SignalKind, signal};

use crate::executor::Children;

/// Between two looks at what came: a process that ends is no hurry.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes this process the parent of all that its descendants leave behind, reaps those that die and kills those
/// whose job is over. Never ends; looks only after some child died. For a process that has no other children.
///
/// # Errors
/// When the system does not let it.
pub async fn adopt_orphans(children: Children, clock: &dyn Clock) -> io::Result<()> {
    // What was there before any job is not of a job.
    let exempt = children.strangers();
    set_child_subreaper(Some(getpid()))?;
    let mut died = signal(SignalKind::child())?;
    while died.recv().await.is_some() {
        clock.sleep(PAUSE).await;
        children.settle(&exempt);
    }
    Ok(())
}
