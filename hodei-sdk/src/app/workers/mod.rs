//! The life cycle of workers: order, creation, registration, connection, health, destruction; and the results that
//! they report. Their output goes to `logs`.

pub(crate) mod agent_session;
pub(crate) mod controller;
mod door;
pub(crate) mod gateway;
pub(crate) mod health;
pub(crate) mod lifecycle;
pub(crate) mod providers;
pub(crate) mod provisioning;
#[cfg(feature = "grpc")]
pub(crate) mod registration;
pub(crate) mod results;
pub(crate) mod stream_registry;
