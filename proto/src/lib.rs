//! The messages of Hodei, and how they convert to its domain.
//!
//! The code of the messages is made from the files under `hodei/v1`; [`convert`] leads to and from the domain.

pub mod convert;
#[cfg(feature = "grpc")]
pub mod packing;
#[cfg(feature = "grpc")]
pub mod tls;

/// Version 1 of the messages.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated; the .proto files document it"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/hodei.v1.rs"));
}

/// The version of the worker protocol that this build speaks. It also talks with the one before.
pub const PROTOCOL_VERSION: u32 = 2;

/// From this version on an agent gives jobs their secrets, and moves their artifacts.
pub const SECRETS_AND_ARTIFACTS_SINCE: u32 = 2;

/// The largest message between a platform and an agent of another process, in bytes: a job with its standard input, and
/// room for others beside it.
#[cfg(feature = "grpc")]
pub const WORKER_MESSAGE: usize = 16 << 20;

/// The compiled form of every .proto file, for gRPC reflection.
#[cfg(feature = "grpc")]
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hodei.v1.bin"));
