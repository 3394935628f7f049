//! Providers: configured places that create workers.

mod machine;
mod profile;
mod state;

pub use machine::{ProviderInput, step};
pub use profile::{ProviderProfile, Unsupported, refusal};
pub use state::{Provider, ProviderHealth};
