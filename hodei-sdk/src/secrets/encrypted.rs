//! Secrets in the store, encrypted.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::decision::Decision;
use hodei_core::event::Actor;
use hodei_core::id::EventId;
use hodei_core::job::TenantId;
use hodei_core::port::{
    Clock, Fence, IdGenerator, SecretError, SecretInfo, SecretProvider, Store, StoreError, Write,
};
use hodei_core::secret::{Secret, SecretInput, SecretName, SecretValue, secret_id, step};

use super::SecretKeys;
use crate::task::blocking;

/// Secrets in the store of the platform, sealed with the keys of a file: a reader of the database learns no value. All
/// daemons that share the store need the same keys.
#[derive(Debug, Clone)]
pub struct EncryptedSecrets {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGenerator>,
    keys: SecretKeys,
}

/// Attempts to change a secret that other writers change at the same time.
const MAX_COMMIT_ATTEMPTS: u32 = 8;

impl EncryptedSecrets {
    /// Creates a provider for the secrets of a store, sealed with these keys.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdGenerator>,
        keys: SecretKeys,
    ) -> Self {
        Self { store, clock, ids, keys }
    }

    /// Commits the change that the input makes to the current state; false when it changes nothing.
    async fn change(
        &self,
        tenant: &TenantId,
        name: &SecretName,
        input: SecretInput,
    ) -> Result<bool, SecretError> {
        for _ in 0..MAX_COMMIT_ATTEMPTS {
            let found = self.store.secrets(&[secret_id(tenant, name)]).await.map_err(unavailable)?;
            let current = found.into_iter().next().flatten();
            let decided = step(current.as_deref(), tenant, name, input.clone(), self.clock.now());
            let Some(decision) = decided else { return Ok(false) };
            if self.commit(&decision).await? {
                return Ok(true);
            }
        }
        Err(SecretError::Unavailable("other writers keep changing the secret: try again".into()))
    }

    async fn commit(&self, decision: &Decision) -> Result<bool, SecretError> {
        let id = || EventId::from_uuid(self.ids.uuid(decision.at));
        let write = Write::of(decision, Actor::Client, id);
        let outcomes = self.store.commit(Fence::None, &[write]).await.map_err(unavailable)?;
        Ok(outcomes.iter().all(Result::is_ok))
    }

    /// Opens the sealed values of some secrets.
    async fn opened(&self, found: Vec<Option<Arc<Secret>>>) -> Result<Vec<Option<SecretValue>>, SecretError> {
        if !found.iter().flatten().any(|secret| secret.sealed().is_some()) {
            return Ok(vec![None; found.len()]);
        }
        let keys = self.keys.clone();
        let opened = move || {
            let ring = keys.ring().map_err(|error| SecretError::Unavailable(error.to_string()))?;
            let value = |secret: &Arc<Secret>| {
                let Some(sealed) = secret.sealed() else { return Ok(None) };
                let opened =
                    ring.as_ref().and_then(|ring| ring.open_sealed(secret.tenant(), secret.name(), sealed));
                opened.map(Some).ok_or_else(|| SecretError::Unreadable {
                    name: secret.name().clone(),
                    why: format!(
                        "it was sealed with a key that {} does not contain: add that key to the file",
                        keys.path().display()
                    ),
                })
            };
            found.iter().map(|secret| secret.as_ref().map_or(Ok(None), value)).collect()
        };
        blocking(opened).await
    }
}

fn unavailable(error: StoreError) -> SecretError {
    SecretError::Unavailable(error.to_string())
}

#[async_trait]
impl SecretProvider for EncryptedSecrets {
    async fn secrets(
        &self,
        tenant: &TenantId,
        names: &[SecretName],
    ) -> Result<Vec<Option<SecretValue>>, SecretError> {
        let ids: Vec<_> = names.iter().map(|name| secret_id(tenant, name)).collect();
        self.opened(self.store.secrets(&ids).await.map_err(unavailable)?).await
    }

    async fn list(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, SecretError> {
        self.store.list_secrets(tenant).await.map_err(unavailable)
    }

    async fn known(&self, tenant: &TenantId, names: &[SecretName]) -> Result<Vec<bool>, SecretError> {
        let ids: Vec<_> = names.iter().map(|name| secret_id(tenant, name)).collect();
        let found = self.store.secrets(&ids).await.map_err(unavailable)?;
        Ok(found
            .iter()
            .map(|secret| secret.as_ref().is_some_and(|secret| secret.sealed().is_some()))
            .collect())
    }

    async fn put(&self, tenant: &TenantId, name: &SecretName, value: SecretValue) -> Result<(), SecretError> {
        let (keys, owner, called) = (self.keys.clone(), tenant.clone(), name.clone());
        let sealed = blocking(move || {
            let ring = keys.ring_or_new().map_err(|error| SecretError::Unavailable(error.to_string()))?;
            ring.seal(&owner, &called, &value).map_err(|why| SecretError::Unavailable(why.into()))
        });
        let sealed = sealed.await?;
        self.change(tenant, name, SecretInput::Put(sealed)).await.map(drop)
    }

    async fn delete(&self, tenant: &TenantId, name: &SecretName) -> Result<bool, SecretError> {
        self.change(tenant, name, SecretInput::Delete).await
    }
}
