use std::sync::Arc;
use std::time::Duration;

use hodei_core::event::channel;
use hodei_core::port::{ClockExt, FeedCursor, FeedPage, StoreError, Subscription};

use crate::app::backoff::PollBackoff;
use crate::app::ports::Ports;

/// Follows the feed of all events from a place on.
#[derive(Debug)]
pub(crate) struct EventFeed {
    ports: Arc<Ports>,
    hints: Box<dyn Subscription>,
    next: FeedCursor,
    backoff: PollBackoff,
}

/// Events read at once: few, since that of a new job has all of its spec.
const AT_ONCE: usize = 100;
/// Not every event has a hint, and what was hinted at may show a little later: the feed is looked at again after this.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

impl EventFeed {
    /// What follows a place, from now on.
    pub(crate) fn new(ports: Arc<Ports>, next: FeedCursor) -> Self {
        let all = channel::ALL.into_iter().filter(|name| *name != channel::WORKER_HEARTBEAT_CHANNEL);
        let hints = ports.bus.subscribe(&all.collect::<Vec<_>>());
        Self { ports, hints, next, backoff: PollBackoff::between(FIRST, LONGEST) }
    }

    /// Goes on from another place.
    pub(crate) fn seek(&mut self, next: FeedCursor) {
        self.next = next;
    }

    /// The next events, waiting for them, and the place before the first of them. Cancel safe.
    ///
    /// # Errors
    /// The store's; the next call reads the same again.
    pub(crate) async fn next(&mut self) -> Result<(FeedCursor, FeedPage), StoreError> {
        loop {
            while self.hints.try_next().is_some() {
                self.backoff.reset();
            }
            let page = self.ports.store.feed(&self.next, AT_ONCE).await?;
            if !page.events.is_empty() {
                self.backoff.reset();
                let after = std::mem::replace(&mut self.next, page.next.clone());
                return Ok((after, page));
            }
            if self.ports.clock.timeout(self.backoff.next(), self.hints.next()).await.is_ok() {
                self.backoff.reset();
            }
        }
    }
}
