//! Stores and log stores: one folder a backend, one file a port. No backend names another.

#[cfg(feature = "sqlite")]
mod data_dir;
#[cfg(feature = "sqlite")]
pub(crate) mod log_segments;
pub(crate) mod memory;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
mod shared;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;

#[cfg(feature = "sqlite")]
pub use data_dir::DataDir;
