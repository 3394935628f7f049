//! The secret aggregate.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SecretName;
use crate::id::SecretId;
use crate::job::TenantId;
use crate::time::Timestamp;

/// A secret as a store keeps it: its value is sealed, and only a daemon has the key to open it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Secret {
    pub(super) tenant: TenantId,
    pub(super) name: SecretName,
    pub(super) version: u64,
    /// The sealed value; `None` once the secret was deleted.
    pub(super) sealed: Option<String>,
    pub(super) changed_at: Timestamp,
}

/// Derives the id of a secret from its tenant and its name.
pub fn secret_id(tenant: &TenantId, name: &SecretName) -> SecretId {
    /// Namespace of the UUIDs of version 5; a random constant.
    const SECRET_NAMESPACE: Uuid = Uuid::from_u128(0x6d1f_2c1c_58a4_4d0b_9d0c_0f6b_7d3a_91e2);
    SecretId::from_uuid(Uuid::new_v5(&SECRET_NAMESPACE, format!("{}\0{name}", tenant.as_str()).as_bytes()))
}

impl Secret {
    /// Returns the id, which is derived from the tenant and the name.
    pub fn id(&self) -> SecretId {
        secret_id(&self.tenant, &self.name)
    }

    /// Returns the tenant that owns the secret.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Returns the name.
    pub fn name(&self) -> &SecretName {
        &self.name
    }

    /// Returns the version, which rises by one with each transition, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the sealed value; `None` once the secret was deleted.
    pub fn sealed(&self) -> Option<&str> {
        self.sealed.as_deref()
    }

    /// Returns when the secret got its value, or was deleted.
    pub fn changed_at(&self) -> Timestamp {
        self.changed_at
    }
}
