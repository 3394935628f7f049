//! What both ends of a call agree on beside the messages.

#[cfg(any(feature = "client", feature = "postgres"))]
pub(crate) mod document;
pub(crate) mod event;
#[cfg(any(feature = "grpc", feature = "client"))]
pub(crate) mod item;
#[cfg(any(feature = "grpc", feature = "client"))]
pub(crate) mod refusal;
#[cfg(any(feature = "grpc", feature = "client"))]
pub(crate) mod scheduling;
