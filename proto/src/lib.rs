//! The wire messages of Hodei, generated from the files under `hodei/v1`, and their conversion to and from the domain
//! in [`convert`].

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

/// The version of the worker protocol of this build, which also supports the version before it.
pub const PROTOCOL_VERSION: u32 = 2;

/// The first protocol version in which agents deliver secrets to jobs and transfer artifacts.
pub const SECRETS_AND_ARTIFACTS_SINCE: u32 = 2;

/// Maximum size of a message between the platform and an agent of another process, in bytes: room for a job with its
/// standard input and for further jobs.
#[cfg(feature = "grpc")]
pub const WORKER_MESSAGE: usize = 16 << 20;

/// The descriptors of every .proto file, for gRPC reflection.
#[cfg(feature = "grpc")]
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hodei.v1.bin"));
