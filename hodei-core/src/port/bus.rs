//! The port of the event bus.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::event::Envelope;

/// Carries hints between components and daemons. Correctness does not depend on any message to arrive.
///
/// A publish times out after 1 s. After three timeouts in a row the platform does not use the bus for 10 s. A panic
/// counts as [`BusError`]. A subscription that panics is not read any more: the sweeps find the changes instead.
#[async_trait]
pub trait EventBus: Debug + Send + Sync + 'static {
    /// Sends each event on the channel that [`channel::of`](crate::event::channel::of) names; events without a channel
    /// are skipped. Does not wait for subscribers.
    ///
    /// # Errors
    /// [`BusError`] when nothing could be sent; the caller may go on.
    async fn publish(&self, events: &[Envelope]) -> Result<(), BusError>;

    /// Subscribes to some channels, from now on. A subscriber that is too slow loses messages and gets
    /// [`Delivery::Lagged`].
    fn subscribe(&self, channels: &[&'static str]) -> Box<dyn Subscription>;
}

/// A subscription to some channels.
#[async_trait]
pub trait Subscription: Debug + Send {
    /// Waits for the next delivery. Cancel safe.
    async fn next(&mut self) -> Delivery;

    /// Returns the next delivery, if one is ready.
    fn try_next(&mut self) -> Option<Delivery>;
}

/// A delivery to a subscriber.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// Events, in the order of their publication.
    Events(Arc<[Envelope]>),
    /// Some events were lost: read the store.
    Lagged,
}

/// The event bus cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("the event bus cannot be reached: {0}")]
pub struct BusError(pub Box<dyn std::error::Error + Send + Sync>);
