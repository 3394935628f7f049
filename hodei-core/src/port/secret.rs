use std::fmt::Debug;

use async_trait::async_trait;

use crate::job::TenantId;
use crate::secret::{SecretName, SecretValue};
use crate::time::Timestamp;

/// Has the values of secrets: files, a service for secrets, a store.
#[async_trait]
pub trait SecretProvider: Debug + Send + Sync + 'static {
    /// Values of a tenant's secrets, in the order asked for; `None` where there is none.
    ///
    /// # Errors
    /// [`SecretError`].
    async fn secrets(
        &self,
        tenant: &TenantId,
        names: &[SecretName],
    ) -> Result<Vec<Option<SecretValue>>, SecretError>;

    /// What is known of a tenant's secrets, by name.
    ///
    /// # Errors
    /// [`SecretError`].
    async fn list(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, SecretError>;

    /// Which of some names are there, in their order.
    ///
    /// # Errors
    /// [`SecretError`].
    async fn known(&self, tenant: &TenantId, names: &[SecretName]) -> Result<Vec<bool>, SecretError> {
        let listed = self.list(tenant).await?;
        Ok(names.iter().map(|name| listed.iter().any(|info| info.name == *name)).collect())
    }

    /// Gives a secret a value, in the place of one that it may have.
    ///
    /// Not cancel safe: when dropped, it may have been stored or not.
    ///
    /// # Errors
    /// [`SecretError::ReadOnly`] where others write; [`SecretError`].
    async fn put(&self, tenant: &TenantId, name: &SecretName, value: SecretValue) -> Result<(), SecretError>;

    /// Takes a secret away; false when there was none.
    ///
    /// Not cancel safe: when dropped, it may be gone or not.
    ///
    /// # Errors
    /// [`SecretError::ReadOnly`] where others write; [`SecretError`].
    async fn delete(&self, tenant: &TenantId, name: &SecretName) -> Result<bool, SecretError>;
}

/// What is known of a secret beside its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretInfo {
    /// What it is called.
    pub name: SecretName,
    /// When it got its value.
    pub changed_at: Timestamp,
}

/// Why secrets cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Nothing is written here.
    #[error("secrets cannot be changed here: {0}")]
    ReadOnly(String),
    /// They cannot be had now; the same call may work later.
    #[error("secrets cannot be had now: {0}")]
    Unavailable(String),
    /// A value that is there cannot be used.
    #[error("secret `{name}` cannot be used: {why}")]
    Unreadable {
        /// Which.
        name: SecretName,
        /// Why; nothing of the value.
        why: String,
    },
}
