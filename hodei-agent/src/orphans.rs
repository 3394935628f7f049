//! Adopts the processes that jobs leave behind, and ends them.

use std::io;
use std::time::Duration;

use hodei_core::port::{Clock, ClockExt};
use rustix::process::{getpid, set_child_subreaper};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::executor::Children;

/// Delay from the death of a child to the search for orphans, which is not urgent.
const SETTLE_DELAY: Duration = Duration::from_secs(1);
/// How long [`Orphanage::close`] waits for killed processes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval at which [`Orphanage::close`] looks at them.
const CLOSE_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The parent of all orphaned descendants of this process. For a process whose only children are jobs.
#[derive(Debug)]
pub struct Orphanage {
    children: Children,
    /// Children from before the first job, which belong to no job.
    exempt: Vec<i32>,
    died: Signal,
}

impl Orphanage {
    /// Makes this process the parent of its orphaned descendants.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open(children: Children) -> io::Result<Self> {
        let exempt = children.strangers();
        set_child_subreaper(Some(getpid()))?;
        children.reap_strangers();
        Ok(Self { children, exempt, died: signal(SignalKind::child())? })
    }

    /// Reaps dead orphans and kills those whose job is over. Searches only after a child died. Never ends. If dropped
    /// during its delay, it searches after the next death.
    pub async fn run(&mut self, clock: &dyn Clock) {
        while self.died.recv().await.is_some() {
            clock.sleep(SETTLE_DELAY).await;
            self.settle();
        }
        std::future::pending().await
    }

    /// Kills and reaps all orphans once no job runs. The children of a killed process become orphans in turn, so this
    /// repeats until there are none, for at most a second.
    pub async fn close(self, clock: &dyn Clock) {
        let settled = async {
            // Usually there are none, which saves the search through all processes of the machine.
            while self.children.may_have_strays() && self.settle() {
                clock.sleep(CLOSE_POLL_INTERVAL).await;
            }
        };
        if clock.timeout(CLOSE_TIMEOUT, settled).await.is_err() {
            tracing::warn!("processes that jobs left behind could not be killed");
        }
    }

    /// Returns whether there were orphans.
    fn settle(&self) -> bool {
        self.children.settle(&self.exempt)
    }
}
