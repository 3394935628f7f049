use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::event::Envelope;

/// Carries hints between components and daemons. Nothing depends on a message to arrive.
///
/// It has 1 s to take hints; one that is silent three times is left alone for 10 s, and a panic counts as [`BusError`]. A
/// subscription that panics is heard no more: the sweeps find what changes.
#[async_trait]
pub trait EventBus: Debug + Send + Sync + 'static {
    /// Sends each event on the channel that [`channel::of`](crate::event::channel::of) names; others are
    /// passed over. Returns without waiting for a subscriber.
    ///
    /// # Errors
    /// [`BusError`] when nothing could be sent; the caller may go on.
    async fn publish(&self, events: &[Envelope]) -> Result<(), BusError>;

    /// Listens to some channels, from now on. A subscriber that is too slow loses messages and is told.
    fn subscribe(&self, channels: &[&'static str]) -> Box<dyn Subscription>;
}

/// One listener.
#[async_trait]
pub trait Subscription: Debug + Send {
    /// The next delivery. Cancel safe.
    async fn next(&mut self) -> Delivery;

    /// A delivery that is there already.
    fn try_next(&mut self) -> Option<Delivery>;
}

/// What a listener gets.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// Events, in the order of their publication.
    Events(Arc<[Envelope]>),
    /// Some were lost: look at the store.
    Lagged,
}

/// A bus that cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("the event bus cannot be reached: {0}")]
pub struct BusError(pub Box<dyn std::error::Error + Send + Sync>);
