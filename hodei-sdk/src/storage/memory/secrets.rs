//! Sealed secrets of a store in memory.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::SecretId;
use hodei_core::job::TenantId;
use hodei_core::port::{SecretInfo, SecretRepository, StoreError};
use hodei_core::secret::Secret;

use super::MemoryStore;

#[async_trait]
impl SecretRepository for MemoryStore {
    async fn secrets(&self, ids: &[SecretId]) -> Result<Vec<Option<Arc<Secret>>>, StoreError> {
        let state = self.lock();
        Ok(ids.iter().map(|id| state.secrets.get(id).cloned()).collect())
    }

    async fn list_secrets(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, StoreError> {
        let state = self.lock();
        let mine =
            state.secrets.values().filter(|secret| secret.tenant() == tenant && secret.sealed().is_some());
        let info = |secret: &Arc<Secret>| SecretInfo {
            name: secret.name().clone(),
            changed_at: secret.changed_at(),
        };
        let mut listed: Vec<_> = mine.map(info).collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }
}
