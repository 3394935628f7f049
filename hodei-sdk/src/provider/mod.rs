//! Providers. The one of this process is always there.

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
