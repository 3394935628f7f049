//! The port of leases and beats, by which the daemons of a store know each other.

use std::fmt::Debug;

use async_trait::async_trait;

use super::{Epoch, StoreError};
use crate::id::{DaemonId, WorkerId};
use crate::queue::QueueStatus;

/// Keeps the beats and the leases of the daemons that share a store.
#[async_trait]
pub trait LeaseStore: Debug + Send + Sync + 'static {
    /// Whether a daemon has the store for itself. Then the lease of any other daemon is free, since that daemon is
    /// gone.
    fn is_exclusive(&self) -> bool;

    /// Stores the beat of a daemon in place of its last one, and returns the state of all daemons. A beat need not
    /// survive a crash of the store: the next one repeats it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn beat(&self, beat: &DaemonBeat) -> Result<Cluster, StoreError>;

    /// Takes a lease from its holder, if its epoch still is `seen`; the epoch rises. `None` when another daemon took it
    /// first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn take_lease(
        &self,
        name: &str,
        seen: Epoch,
        holder: DaemonId,
    ) -> Result<Option<Epoch>, StoreError>;

    /// Forgets a daemon: its leases become free and keep their epochs, and its streams are gone.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn leave(&self, daemon: DaemonId) -> Result<(), StoreError>;
}

/// The name of the lease that the active coordinator holds.
pub const COORDINATOR_LEASE: &str = "coordinator";

/// The beat of a daemon: its state as it reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonBeat {
    /// Id of the daemon, new with each start.
    pub daemon: DaemonId,
    /// Number of beats: a rise proves that the daemon is alive.
    pub beats: u64,
    /// URL at which agents and clients reach it, if any.
    pub url: Option<String>,
    /// The workers whose streams it holds, each with the number of its lease renewals.
    pub streams: Vec<(WorkerId, u64)>,
    /// The status of the queue; only from the daemon that coordinates.
    pub queue: Option<QueueStatus>,
}

/// The current state of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Name of the lease.
    pub name: String,
    /// How many times it was taken.
    pub epoch: Epoch,
    /// Its holder; `None` when it is free.
    pub holder: Option<DaemonId>,
}

/// The daemons of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The last beat of each daemon, in the order of their ids. A dead daemon stays until another one makes it
    /// [`leave`](LeaseStore::leave).
    pub daemons: Vec<DaemonBeat>,
    /// Every lease that was ever taken, in the order of their names.
    pub leases: Vec<Lease>,
}
