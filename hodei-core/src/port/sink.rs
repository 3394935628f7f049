use std::fmt::Debug;

use async_trait::async_trait;

use super::FeedCursor;
use crate::event::Envelope;
use crate::id::EventId;

/// Takes the events of a store to others, in the order of its feed. It remembers where it is: nothing about it is kept
/// in the store.
///
/// It has 10 s for each call; a panic of one counts as [`SinkError`]. Whatever becomes of it, no job waits for it.
#[async_trait]
pub trait EventSink: Debug + Send + Sync + 'static {
    /// How far it is; `None` when it has nothing, and is to get all that the store still has.
    ///
    /// # Errors
    /// [`SinkError`]; the caller asks again later.
    async fn position(&self) -> Result<Option<SinkPosition>, SinkError>;

    /// Takes events that follow what it has; `after` is a place in the feed before the first of them. Whoever is told of
    /// an error, or dropped the call, asks for the position before the next call. An event that comes twice has one
    /// [`id`](Envelope::id).
    ///
    /// # Errors
    /// [`SinkError`] when some were not taken, or it is not known that they were.
    async fn append(&self, events: &[Envelope], after: &FeedCursor) -> Result<(), SinkError>;
}

/// How far a sink is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkPosition {
    /// The last event that it has.
    pub last: EventId,
    /// A place in the feed before that event.
    pub after: FeedCursor,
}

/// A sink that cannot be reached, or does not take what it is given.
#[derive(Debug, thiserror::Error)]
#[error("events could not be handed on: {0}")]
pub struct SinkError(pub Box<dyn std::error::Error + Send + Sync>);
