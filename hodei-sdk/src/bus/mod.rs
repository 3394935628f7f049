//! The adapters of the event bus.

pub(crate) mod memory;
#[cfg(feature = "postgres")]
mod outbox;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
