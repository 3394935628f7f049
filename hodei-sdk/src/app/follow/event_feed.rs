//! Follower of the feed of all events: waits for new ones by hints and by polling.

use std::sync::Arc;
use std::time::Duration;

use hodei_core::event::channel;
use hodei_core::port::{ClockExt, FeedCursor, FeedPage, StoreError, Subscription};

use crate::app::backoff::PollBackoff;
use crate::app::ports::Ports;

/// Follows the feed of all events from a cursor on.
#[derive(Debug)]
pub(crate) struct EventFeed {
    ports: Arc<Ports>,
    hints: Box<dyn Subscription>,
    next: FeedCursor,
    backoff: PollBackoff,
}

/// Events read at once: few, since the event of a new job contains its whole spec.
const PAGE_EVENTS: usize = 100;
/// First wait before the feed is read again without a hint: not every event has one, and an event may appear in the
/// feed after its hint.
const FIRST_POLL: Duration = Duration::from_millis(50);
/// Longest wait before the feed is read again without a hint.
const MAX_POLL: Duration = Duration::from_secs(5);

impl EventFeed {
    /// Creates a follower of the events after `next`.
    pub(crate) fn new(ports: Arc<Ports>, next: FeedCursor) -> Self {
        let all = channel::ALL.into_iter().filter(|name| *name != channel::WORKER_HEARTBEAT_CHANNEL);
        let hints = ports.bus.subscribe(&all.collect::<Vec<_>>());
        Self { ports, hints, next, backoff: PollBackoff::between(FIRST_POLL, MAX_POLL) }
    }

    /// Continues from another cursor.
    pub(crate) fn seek(&mut self, next: FeedCursor) {
        self.next = next;
    }

    /// Waits for the next events; returns them with the cursor before the first of them. Cancel safe.
    ///
    /// # Errors
    /// Errors of the store; the next call reads the same page again.
    pub(crate) async fn next(&mut self) -> Result<(FeedCursor, FeedPage), StoreError> {
        loop {
            while self.hints.try_next().is_some() {
                self.backoff.reset();
            }
            let page = self.ports.store.feed(&self.next, PAGE_EVENTS).await?;
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
