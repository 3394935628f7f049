//! Daemons and leases of a store in memory.

use async_trait::async_trait;
use hodei_core::id::DaemonId;
use hodei_core::port::{Cluster, DaemonBeat, Epoch, LeaseStore, StoreError};

use super::MemoryStore;

#[async_trait]
impl LeaseStore for MemoryStore {
    fn is_exclusive(&self) -> bool {
        !self.shared
    }

    async fn beat(&self, beat: &DaemonBeat) -> Result<Cluster, StoreError> {
        Ok(self.lock().presence.beat(beat))
    }

    async fn take_lease(
        &self,
        name: &str,
        seen: Epoch,
        holder: DaemonId,
    ) -> Result<Option<Epoch>, StoreError> {
        let presence = &mut self.lock().presence;
        let offered = presence.offer(name, seen);
        offered.into_iter().for_each(|epoch| presence.taken(name, epoch, holder));
        Ok(offered)
    }

    async fn leave(&self, daemon: DaemonId) -> Result<(), StoreError> {
        self.lock().presence.leave(daemon);
        Ok(())
    }
}
