//! Stores and log stores: one folder per backend, one file per port. No backend depends on another.

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
