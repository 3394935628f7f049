//! The port of secret providers.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::job::TenantId;
use crate::secret::{SecretName, SecretValue};
use crate::time::Timestamp;

/// Provides the values of secrets, from files, a secret service or a store.
#[async_trait]
pub trait SecretProvider: Debug + Send + Sync + 'static {
    /// Returns the values of a tenant's secrets, in the order of `names`; `None` for a secret that does not exist.
    ///
    /// # Errors
    /// [`SecretError`].
    async fn secrets(
        &self,
        tenant: &TenantId,
        names: &[SecretName],
    ) -> Result<Vec<Option<SecretValue>>, SecretError>;

    /// Returns a tenant's secrets without their values, in the order of their names.
    ///
    /// # Errors
    /// [`SecretError`].
    async fn list(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, SecretError>;

    /// Returns for each name whether the secret exists.
    ///
    /// # Errors
    /// [`SecretError`].
    async fn known(&self, tenant: &TenantId, names: &[SecretName]) -> Result<Vec<bool>, SecretError> {
        let listed = self.list(tenant).await?;
        Ok(names.iter().map(|name| listed.iter().any(|info| info.name == *name)).collect())
    }

    /// Sets the value of a secret, replacing any other.
    ///
    /// Not cancel safe: when the call is dropped, the value may be stored or not.
    ///
    /// # Errors
    /// [`SecretError::ReadOnly`] where secrets are written elsewhere; [`SecretError`].
    async fn put(&self, tenant: &TenantId, name: &SecretName, value: SecretValue) -> Result<(), SecretError>;

    /// Deletes a secret; false when it did not exist.
    ///
    /// Not cancel safe: when the call is dropped, the secret may be deleted or not.
    ///
    /// # Errors
    /// [`SecretError::ReadOnly`] where secrets are written elsewhere; [`SecretError`].
    async fn delete(&self, tenant: &TenantId, name: &SecretName) -> Result<bool, SecretError>;
}

/// A secret without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretInfo {
    /// Name of the secret.
    pub name: SecretName,
    /// When it got its value.
    pub changed_at: Timestamp,
}

/// Why a call of a secret provider failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The provider does not write secrets.
    #[error("secrets cannot be changed here: {0}")]
    ReadOnly(String),
    /// The provider is unavailable now; the same call may succeed later.
    #[error("secrets are not available now: {0}")]
    Unavailable(String),
    /// A secret exists but its value cannot be used.
    #[error("secret `{name}` cannot be used: {why}")]
    Unreadable {
        /// Name of the secret.
        name: SecretName,
        /// The reason, without any part of the value.
        why: String,
    },
}
