//! Providers of workers. The local provider is always compiled in.

mod begun;
mod context;
mod leftovers;
pub(crate) mod local;
#[cfg(feature = "process")]
pub(crate) mod process;
#[cfg(feature = "testing")]
pub(crate) mod test;

pub(crate) use context::MACHINE_LABEL;
pub use context::ProviderContext;
