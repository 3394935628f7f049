//! Strategies to choose among workers; give them to [`SmartScheduler`](super::SmartScheduler).

mod first_available;
mod least_loaded;

pub use first_available::FirstAvailable;
pub use least_loaded::LeastLoaded;
