//! Secrets in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hodei_core::job::TenantId;
use hodei_core::port::{Clock, SecretError, SecretInfo, SecretProvider};
use hodei_core::secret::{SecretName, SecretValue};
use hodei_core::time::Timestamp;

type Kept = BTreeMap<(TenantId, SecretName), (SecretValue, Timestamp)>;

/// Secrets in memory, for a platform that keeps everything there. Clones share them.
#[derive(Clone)]
pub struct MemorySecrets {
    kept: Arc<Mutex<Kept>>,
    clock: Arc<dyn Clock>,
}

impl MemorySecrets {
    /// Creates an empty provider; the clock gives the time of each change.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { kept: Arc::default(), clock }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemorySecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySecrets").finish_non_exhaustive()
    }
}

#[async_trait]
impl SecretProvider for MemorySecrets {
    async fn secrets(
        &self,
        tenant: &TenantId,
        names: &[SecretName],
    ) -> Result<Vec<Option<SecretValue>>, SecretError> {
        let kept = self.lock();
        let value = |name: &SecretName| Some(kept.get(&(tenant.clone(), name.clone()))?.0.clone());
        Ok(names.iter().map(value).collect())
    }

    async fn list(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, SecretError> {
        let kept = self.lock();
        let mine = kept.iter().filter(|((owner, _), _)| owner == tenant);
        let info = |((_, name), (_, at)): (&(TenantId, SecretName), &(SecretValue, Timestamp))| SecretInfo {
            name: name.clone(),
            changed_at: *at,
        };
        Ok(mine.map(info).collect())
    }

    async fn put(&self, tenant: &TenantId, name: &SecretName, value: SecretValue) -> Result<(), SecretError> {
        self.lock().insert((tenant.clone(), name.clone()), (value, self.clock.now()));
        Ok(())
    }

    async fn delete(&self, tenant: &TenantId, name: &SecretName) -> Result<bool, SecretError> {
        Ok(self.lock().remove(&(tenant.clone(), name.clone())).is_some())
    }
}
