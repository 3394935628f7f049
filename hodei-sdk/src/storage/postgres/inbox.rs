//! Task that accepts jobs that were inserted by SQL.

use std::sync::Arc;
use std::time::Duration;

use hodei_core::port::{Clock, ClockExt, EventBus};
use tokio::sync::Notify;

use super::PostgresStore;

/// Accepts jobs that were inserted by SQL.
#[derive(Debug)]
pub(crate) struct PostgresInbox {
    pub(crate) store: PostgresStore,
    /// Notified when a job was inserted.
    pub(crate) news: Arc<Notify>,
}

/// Delay before a retry after a failure.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Longest interval between two scans.
const MAX_SCAN_INTERVAL: Duration = Duration::from_secs(5);

impl PostgresInbox {
    /// Accepts inserted jobs until the platform stops; also scans from time to time, unless `sweep` is `None`.
    pub(crate) async fn run(self, bus: Arc<dyn EventBus>, clock: Arc<dyn Clock>, sweep: Option<Duration>) {
        let mut idle = 0;
        loop {
            match self.store.take_in(None).await {
                Ok(events) if events.is_empty() => {
                    let wait = sweep.map(|sweep| (sweep * (1 << idle)).min(sweep.max(MAX_SCAN_INTERVAL)));
                    idle = (idle + 1).min(5);
                    match wait {
                        Some(wait) => drop(clock.timeout(wait, self.news.notified()).await),
                        None => self.news.notified().await,
                    }
                }
                Ok(events) => {
                    idle = 0;
                    if let Err(error) = bus.publish(&events).await {
                        tracing::debug!(%error, "hints were lost");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "jobs that were inserted by SQL cannot be accepted yet; retrying");
                    clock.sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }
}
