//! What jobs leave behind comes to the agent, which sees it to its end.

use std::io;
use std::time::Duration;

use hodei_core::port::{Clock, ClockExt};
use rustix::process::{getpid, set_child_subreaper};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::executor::Children;

/// Between two looks at what came: a process that ends is no hurry.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end waits for processes that were killed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks at them.
const POLL: Duration = Duration::from_millis(5);

/// The parent of all that the descendants of this process leave behind. For a process that has no other children
/// than jobs.
#[derive(Debug)]
pub struct Orphanage {
    children: Children,
    /// What was there before any job is not of a job.
    exempt: Vec<i32>,
    died: Signal,
}

impl Orphanage {
    /// Makes this process that parent.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn open(children: Children) -> io::Result<Self> {
        let exempt = children.strangers();
        set_child_subreaper(Some(getpid()))?;
        children.reap_strangers();
        Ok(Self { children, exempt, died: signal(SignalKind::child())? })
    }

    /// Reaps those that die and kills those whose job is over; looks only after some child died. Never ends.
    /// Dropped in a pause, it looks again after the next death.
    pub async fn run(&mut self, clock: &dyn Clock) {
        while self.died.recv().await.is_some() {
            clock.sleep(PAUSE).await;
            self.settle();
        }
        std::future::pending().await
    }

    /// Kills and reaps all of them, for when no job runs any more. Each one's children come here at its death, so this
    /// goes on until none comes, for a second at most.
    pub async fn close(self, clock: &dyn Clock) {
        let settled = async {
            // As a rule there are none, and not every process of the machine is looked at.
            while self.children.may_have_strays() && self.settle() {
                clock.sleep(POLL).await;
            }
        };
        if clock.timeout(CLOSE_TIMEOUT, settled).await.is_err() {
            tracing::warn!("processes that jobs left behind live on: they could not be killed");
        }
    }

    /// Returns whether any is left.
    fn settle(&self) -> bool {
        self.children.settle(&self.exempt)
    }
}
