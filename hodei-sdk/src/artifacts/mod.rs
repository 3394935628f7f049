//! Artifact stores.

mod memory;
#[cfg(feature = "artifacts")]
mod object;

pub use memory::MemoryArtifacts;
#[cfg(feature = "artifacts")]
pub use object::ObjectArtifacts;
