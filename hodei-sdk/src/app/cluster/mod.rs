//! Several daemons on one store: their liveness and leases, and the forwarding of events to other systems. The rules of
//! beats are in `hodei_core::cluster`.

pub(crate) mod event_forwarding;
pub(crate) mod membership;
