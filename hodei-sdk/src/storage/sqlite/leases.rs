//! Daemons and leases in SQLite.

use async_trait::async_trait;
use hodei_core::id::DaemonId;
use hodei_core::port::{Cluster, DaemonBeat, Epoch, LeaseStore, StoreError};

use super::SqliteStore;
use super::transaction;

#[async_trait]
impl LeaseStore for SqliteStore {
    fn is_exclusive(&self) -> bool {
        true
    }

    async fn beat(&self, beat: &DaemonBeat) -> Result<Cluster, StoreError> {
        Ok(self.recent.presence(|presence| presence.beat(beat)))
    }

    async fn take_lease(
        &self,
        name: &str,
        seen: Epoch,
        holder: DaemonId,
    ) -> Result<Option<Epoch>, StoreError> {
        transaction::take_lease(self.writer(), name, seen, holder).await
    }

    async fn leave(&self, daemon: DaemonId) -> Result<(), StoreError> {
        self.recent.presence(|presence| presence.leave(daemon));
        Ok(())
    }
}
