//! The port of event sinks, which take the events of a store to other systems.

use std::fmt::Debug;

use async_trait::async_trait;

use super::FeedCursor;
use crate::event::Envelope;
use crate::id::EventId;

/// Takes the events of a store to another system, in the order of the feed. The sink keeps its own position; the store
/// keeps nothing about it.
///
/// Each call may take 10 s. A panic counts as [`SinkError`]. No job ever waits for a sink.
#[async_trait]
pub trait EventSink: Debug + Send + Sync + 'static {
    /// Returns the position of the sink; `None` when it has no event, and is to get all events that the store still
    /// has.
    ///
    /// # Errors
    /// [`SinkError`]; the caller asks again later.
    async fn position(&self) -> Result<Option<SinkPosition>, SinkError>;

    /// Takes events that follow its position; `after` is a place in the feed before the first of them. After an error
    /// or a dropped call, the caller reads the position before the next call. An event that arrives twice has the same
    /// [`id`](Envelope::id) both times.
    ///
    /// # Errors
    /// [`SinkError`] when some events were not taken, or may not have been.
    async fn append(&self, events: &[Envelope], after: &FeedCursor) -> Result<(), SinkError>;
}

/// The position of a sink in the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkPosition {
    /// The last event that the sink has.
    pub last: EventId,
    /// A place in the feed before that event.
    pub after: FeedCursor,
}

/// A sink cannot be reached, or does not take events.
#[derive(Debug, thiserror::Error)]
#[error("events could not be handed on: {0}")]
pub struct SinkError(pub Box<dyn std::error::Error + Send + Sync>);
