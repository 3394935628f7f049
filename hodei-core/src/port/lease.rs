use std::fmt::Debug;

use async_trait::async_trait;

use super::StoreError;
use crate::id::{DaemonId, WorkerId};
use crate::queue::QueueStatus;

/// Knows the daemons that share a store, and what each of them holds.
#[async_trait]
pub trait LeaseStore: Debug + Send + Sync + 'static {
    /// Whether a daemon has the store for itself. Then a lease that another holds is free: that one is gone.
    fn is_exclusive(&self) -> bool;

    /// Notes what a daemon says of itself, in the place of what it said before, and tells of all of them. It need not
    /// survive a crash of the store: the next beat says it again.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn beat(&self, beat: &DaemonBeat) -> Result<Cluster, StoreError>;

    /// Takes a lease from whoever has it, if its epoch is still the one that was `seen`: the epoch rises. `None` when
    /// somebody was faster.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn take_lease(
        &self,
        name: &str,
        seen: Epoch,
        holder: DaemonId,
    ) -> Result<Option<Epoch>, StoreError>;

    /// Forgets a daemon: its leases are free, with their epochs, and its streams are gone.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn leave(&self, daemon: DaemonId) -> Result<(), StoreError>;
}

/// The name of the lease that the active coordinator holds.
pub const COORDINATOR_LEASE: &str = "coordinator";

/// The fencing number of a lease; 0 before it was ever taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// What a daemon says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonBeat {
    /// Which daemon: a new one with each start.
    pub daemon: DaemonId,
    /// Rises with each beat: it shows that the daemon lives.
    pub beats: u64,
    /// Where agents and clients reach it, if they do.
    pub url: Option<String>,
    /// The workers whose streams it holds, each with how often it renewed its lease.
    pub streams: Vec<(WorkerId, u64)>,
    /// The queue, as the one that coordinates sees it.
    pub queue: Option<QueueStatus>,
}

/// A lease as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is for.
    pub name: String,
    /// How often it was taken.
    pub epoch: Epoch,
    /// Who has it; `None` when it is free.
    pub holder: Option<DaemonId>,
}

/// The daemons of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// What each said last, by id; those that are dead stay until somebody makes them [`leave`](LeaseStore::leave).
    pub daemons: Vec<DaemonBeat>,
    /// Every lease that was ever taken, by name.
    pub leases: Vec<Lease>,
}
