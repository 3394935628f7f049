//! Forwarding of the event feed to an external sink.

use std::sync::Arc;
use std::time::Duration;

use hodei_core::port::{ClockExt, EventSink, FeedCursor, SinkError, SinkPosition, StoreError};

use crate::app::cluster::membership::Membership;
use crate::app::follow::event_feed::EventFeed;
use crate::app::ports::Ports;

/// Forwards the events of the store to a sink: each at least once, in feed order. One daemon of a store does this at a
/// time. No job waits for the sink.
#[derive(Debug)]
pub(crate) struct EventForwarder {
    pub(crate) ports: Arc<Ports>,
    pub(crate) membership: Membership,
    pub(crate) sink: Arc<dyn EventSink>,
}

/// Name of the lease of the forwarding daemon.
const FORWARDER_LEASE: &str = "events";
/// Timeout of one call to the sink.
const SINK_TIMEOUT: Duration = Duration::from_secs(10);
/// First wait after a failure of the sink or the store; it doubles with each further failure.
const FIRST_RETRY_WAIT: Duration = Duration::from_millis(200);
/// Longest wait between two tries.
const MAX_RETRY_WAIT: Duration = Duration::from_secs(5);

/// Reason for which forwarding is interrupted.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EventForwarder {
    /// Forwards whenever this daemon holds the lease, until the platform stops.
    pub(crate) async fn run(self) {
        loop {
            let epoch = self.membership.acquire(FORWARDER_LEASE).await;
            tokio::select! {
                biased;
                () = self.membership.lost(FORWARDER_LEASE, epoch) => {
                    tracing::warn!("another daemon took over the forwarding of events");
                }
                () = self.forward() => {}
            }
            if !self.membership.is_shared() {
                return;
            }
        }
    }

    /// Forwards forever; waits after each failure.
    async fn forward(&self) {
        let mut wait = FIRST_RETRY_WAIT;
        loop {
            let mut forwarded = 0;
            let Err(error) = self.forward_until_failure(&mut forwarded).await;
            if forwarded > 0 {
                wait = FIRST_RETRY_WAIT;
            }
            if wait == FIRST_RETRY_WAIT {
                tracing::warn!(%error, "could not forward events: trying again with growing waits");
            }
            self.ports.clock.sleep(wait).await;
            wait = (wait * 2).min(MAX_RETRY_WAIT);
        }
    }

    /// Forwards until the first failure. Asks the sink for its position first, since only the sink knows what it has.
    async fn forward_until_failure(&self, forwarded: &mut usize) -> Result<std::convert::Infallible, Failed> {
        let position = self.within(self.sink.position()).await?;
        let (after, mut last) = match position {
            Some(SinkPosition { last, after }) => (after, Some(last)),
            None => (FeedCursor::default(), None),
        };
        let mut feed = EventFeed::new(self.ports.clone(), after);
        loop {
            let (after, page) = match feed.next().await {
                // For example a cursor from before the store was restored from a backup.
                Err(StoreError::Cursor) => {
                    tracing::warn!(
                        "the store does not know the sink's cursor: forwarding starts at the first event"
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
                *forwarded += events.len();
            }
        }
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, SinkError>> + Send,
    ) -> Result<T, SinkError> {
        match self.ports.clock.timeout(SINK_TIMEOUT, call).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(SinkError(elapsed.to_string().into())),
        }
    }
}
