#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod batch;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod column;
#[cfg(feature = "sqlite")]
mod data_dir;
pub(crate) mod memory;
#[cfg(feature = "sqlite")]
mod place;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
mod presence;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod recent_jobs;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod record;
mod reserve;
#[cfg(feature = "sqlite")]
pub(crate) mod segments;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;

#[cfg(feature = "sqlite")]
pub use data_dir::DataDir;
