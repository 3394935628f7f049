//! Built-in strategies that score workers, for [`SmartScheduler`](super::SmartScheduler).

mod first_available;
mod least_loaded;

pub use first_available::FirstAvailable;
pub use least_loaded::LeastLoaded;
