//! Daemons and leases of a store that lives in one process.

use std::collections::BTreeMap;

use hodei_core::id::DaemonId;
use hodei_core::port::{COORDINATOR_LEASE, Cluster, DaemonBeat, Epoch, Lease};

/// The daemons of a store that lives in one process, and their leases.
#[derive(Debug, Default)]
pub(in crate::storage) struct Presence {
    daemons: BTreeMap<DaemonId, DaemonBeat>,
    leases: BTreeMap<String, Lease>,
}

impl Presence {
    pub(in crate::storage) fn beat(&mut self, beat: &DaemonBeat) -> Cluster {
        self.daemons.insert(beat.daemon, beat.clone());
        Cluster {
            daemons: self.daemons.values().cloned().collect(),
            leases: self.leases.values().cloned().collect(),
        }
    }

    pub(in crate::storage) fn leave(&mut self, daemon: DaemonId) {
        self.daemons.remove(&daemon);
        for lease in self.leases.values_mut().filter(|lease| lease.holder == Some(daemon)) {
            lease.holder = None;
        }
    }

    /// Returns the epoch for the next holder of a lease; `None` when its epoch is not `seen` any more.
    pub(in crate::storage) fn offer(&self, name: &str, seen: Epoch) -> Option<Epoch> {
        (self.epoch(name) == seen).then_some(Epoch(seen.0 + 1))
    }

    /// Records that a daemon took a lease.
    pub(in crate::storage) fn taken(&mut self, name: &str, epoch: Epoch, holder: DaemonId) {
        let lease = Lease { name: name.to_owned(), epoch, holder: Some(holder) };
        self.leases.insert(lease.name.clone(), lease);
    }

    /// Returns the epoch of the coordinator's lease.
    pub(in crate::storage) fn plan_epoch(&self) -> Epoch {
        self.epoch(COORDINATOR_LEASE)
    }

    fn epoch(&self, name: &str) -> Epoch {
        self.leases.get(name).map_or(Epoch(0), |lease| lease.epoch)
    }

    /// Replaces the leases whose stored epoch differs from the known one.
    #[cfg(feature = "sqlite")]
    pub(in crate::storage) fn reload(&mut self, epochs: impl IntoIterator<Item = (String, Epoch)>) {
        for (name, epoch) in epochs {
            let lease = Lease { name: name.clone(), epoch, holder: None };
            let known = self.leases.entry(name).or_insert_with(|| lease.clone());
            if known.epoch != epoch {
                *known = lease;
            }
        }
    }
}
