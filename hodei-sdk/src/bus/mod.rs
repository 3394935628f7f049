//! Adapters of the event bus and of the event sink.

pub(crate) mod memory;
#[cfg(feature = "nats")]
pub(crate) mod nats;
#[cfg(any(feature = "nats", feature = "postgres"))]
mod outbox;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod sink;
