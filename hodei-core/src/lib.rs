//! Domain and ports of Hodei, the job platform that you embed.
//!
//! Everything here is pure: no I/O, no clock, no randomness. A state machine ([`job::step`], [`worker::step`],
//! [`provider::step`]) computes each change of state as a value; the platform stores it, then acts on it.
//! The application over it is the crate `hodei-sdk`.

pub mod access;
mod aggregate_id;
pub mod artifact;
pub mod audit;
pub mod cluster;
pub mod decision;
pub mod event;
mod hex;
pub mod id;
pub mod invariant;
pub mod job;
mod name;
pub mod port;
pub mod provider;
pub mod queue;
pub mod reconcile;
pub mod retention;
pub mod scheduling;
mod score;
pub mod secret;
pub mod time;
pub mod worker;
