//! Conversions that both the server and the client of a daemon use: messages, refusals, and the JSON form of a job.

#[cfg(any(feature = "client", feature = "postgres"))]
pub(crate) mod document;
pub(crate) mod event;
#[cfg(any(feature = "grpc", feature = "client"))]
pub(crate) mod item;
#[cfg(any(feature = "grpc", feature = "client"))]
pub(crate) mod refusal;
#[cfg(any(feature = "grpc", feature = "client"))]
pub(crate) mod scheduling;
