use std::sync::Arc;
use std::time::Duration;

use hodei_core::port::{ClockExt, EventSink, FeedCursor, SinkError, SinkPosition, StoreError};

use crate::app::cluster::membership::Membership;
use crate::app::follow::event_feed::EventFeed;
use crate::app::ports::Ports;

/// Hands the events of the store to a sink: each at least once, in the order of the feed. Of the daemons of a store one
/// does. Whatever becomes of the sink, no job waits for it.
#[derive(Debug)]
pub(crate) struct EventForwarder {
    pub(crate) ports: Arc<Ports>,
    pub(crate) membership: Membership,
    pub(crate) sink: Arc<dyn EventSink>,
}

/// The lease of the daemon that relays.
const LEASE: &str = "events";
/// How long the sink has to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two tries on a sink, or a store, that fails; twice as long each time.
const AGAIN: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// Why relaying stopped for the moment.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EventForwarder {
    /// Relays whenever it may, until the platform stops.
    pub(crate) async fn run(self) {
        loop {
            let epoch = self.membership.acquire(LEASE).await;
            tokio::select! {
                biased;
                () = self.membership.lost(LEASE, epoch) => {
                    tracing::warn!("another daemon hands the events on");
                }
                () = self.relay() => {}
            }
            if !self.membership.is_shared() {
                return;
            }
        }
    }

    async fn relay(&self) {
        let mut wait = AGAIN;
        loop {
            let mut passed = 0;
            let Err(error) = self.relay_until_it_fails(&mut passed).await;
            if passed > 0 {
                wait = AGAIN;
            }
            if wait == AGAIN {
                tracing::warn!(%error, "events are handed on later");
            }
            self.ports.clock.sleep(wait).await;
            wait = (wait * 2).min(LONGEST);
        }
    }

    /// Only the sink knows what it has: it is asked first, and after each failure.
    async fn relay_until_it_fails(&self, passed: &mut usize) -> Result<std::convert::Infallible, Failed> {
        let position = self.within(self.sink.position()).await?;
        let (after, mut last) = match position {
            Some(SinkPosition { last, after }) => (after, Some(last)),
            None => (FeedCursor::default(), None),
        };
        let mut feed = EventFeed::new(self.ports.clone(), after);
        loop {
            let (after, page) = match feed.next().await {
                // A cursor of a store that was made again from a backup, say.
                Err(StoreError::Cursor) => {
                    tracing::warn!(
                        "the store does not know how far its events were handed on: it begins again"
                    );
                    feed.seek(FeedCursor::default());
                    last = None;
                    continue;
                }
                page => page?,
            };
            let known = last.take().and_then(|last| page.events.iter().position(|event| event.id == last));
            let events = page.events.get(known.map_or(0, |known| known + 1)..).unwrap_or_default();
            if !events.is_empty() {
                self.within(self.sink.append(events, &after)).await?;
                *passed += events.len();
            }
        }
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, SinkError>> + Send,
    ) -> Result<T, SinkError> {
        match self.ports.clock.timeout(LIMIT, call).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(SinkError(elapsed.to_string().into())),
        }
    }
}
