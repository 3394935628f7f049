//! Conformance suites for adapters, one per port. Call a suite with a function that returns fresh, empty instances of
//! your adapter; the suite panics when the adapter breaks the contract.
//!
//! ```
//! use std::sync::Arc;
//! use hodei_sdk::testing::conformance;
//! use hodei_sdk::MemoryStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! conformance::store(async |id| Arc::new(MemoryStore::new(id))).await;
//! # }
//! ```

mod access;
mod artifacts;
mod bus;
mod durable;
mod faults;
mod leases;
mod logs;
mod model;
mod provider;
mod secrets;
mod sink;
mod store;
mod time;
mod world;

pub use artifacts::artifact_store;
pub use bus::bus;
pub use durable::{durable_logs, durable_store};
pub use faults::{bus_under_faults, logs_under_faults, store_under_faults};
pub use logs::logs;
pub use provider::provider;
pub use secrets::{secret_provider, secrets_of_others};
pub use sink::event_sink;
pub use store::store;
pub use time::{clock, ids};
