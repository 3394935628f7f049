use std::sync::Arc;
use std::time::Duration;

use hodei_core::port::{Clock, ClockExt, EventBus};
use tokio::sync::Notify;

use super::PostgresStore;

/// Takes in the jobs that were put in by SQL.
#[derive(Debug)]
pub(crate) struct PostgresInbox {
    pub(crate) store: PostgresStore,
    /// Somebody put something in.
    pub(crate) news: Arc<Notify>,
}

/// After a failure.
const AGAIN: Duration = Duration::from_millis(500);
/// The longest wait between two looks.
const IDLE: Duration = Duration::from_secs(5);

impl PostgresInbox {
    /// Takes in whatever comes, until the platform stops; looks by itself now and then, unless `sweep` is `None`.
    pub(crate) async fn run(self, bus: Arc<dyn EventBus>, clock: Arc<dyn Clock>, sweep: Option<Duration>) {
        let mut idle = 0;
        loop {
            match self.store.take_in(None).await {
                Ok(events) if events.is_empty() => {
                    let wait = sweep.map(|sweep| (sweep * (1 << idle)).min(sweep.max(IDLE)));
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
                    tracing::warn!(%error, "jobs that were put in by SQL cannot be taken in yet");
                    clock.sleep(AGAIN).await;
                }
            }
        }
    }
}
