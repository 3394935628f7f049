//! The secret aggregate and its state machine.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SecretName;
use crate::decision::{Aggregate, Decision, Expect};
use crate::event::DomainEvent;
use crate::id::SecretId;
use crate::job::TenantId;
use crate::time::Timestamp;

/// A secret as a store keeps it: its value is sealed, and only a daemon has the key to open it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Secret {
    tenant: TenantId,
    name: SecretName,
    version: u64,
    /// The sealed value; `None` once the secret was deleted.
    sealed: Option<String>,
    changed_at: Timestamp,
}

/// The inputs of the state machine.
#[derive(Debug, Clone, PartialEq)]
pub enum SecretInput {
    /// The secret gets this sealed value.
    Put(String),
    /// The secret is deleted.
    Delete,
}

/// Derives the id of a secret from its tenant and its name.
pub fn secret_id(tenant: &TenantId, name: &SecretName) -> SecretId {
    /// Namespace of the UUIDs of version 5; a random constant.
    const SECRET_NAMESPACE: Uuid = Uuid::from_u128(0x6d1f_2c1c_58a4_4d0b_9d0c_0f6b_7d3a_91e2);
    SecretId::from_uuid(Uuid::new_v5(&SECRET_NAMESPACE, format!("{}\0{name}", tenant.as_str()).as_bytes()))
}

/// Computes the next state of a secret; `None` when nothing changes.
pub fn step(
    current: Option<&Secret>,
    tenant: &TenantId,
    name: &SecretName,
    input: SecretInput,
    now: Timestamp,
) -> Option<Decision> {
    let (sealed, event) = match input {
        SecretInput::Put(sealed) => {
            (Some(sealed), DomainEvent::SecretStored { tenant: tenant.clone(), name: name.clone() })
        }
        SecretInput::Delete => {
            current.and_then(Secret::sealed)?;
            (None, DomainEvent::SecretDeleted { tenant: tenant.clone(), name: name.clone() })
        }
    };
    let version = current.map_or(0, |secret| secret.version);
    let expect = if version == 0 { Expect::Absent } else { Expect::Version(version) };
    let (tenant, name, version) = (tenant.clone(), name.clone(), version + 1);
    let next = Secret { tenant, name, version, sealed, changed_at: now };
    Some(Decision {
        expect,
        next: Aggregate::Secret(Arc::new(next)),
        at: now,
        events: vec![event],
        effects: Vec::new(),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(decision: &Decision) -> &Secret {
        let Aggregate::Secret(secret) = &decision.next else { panic!("not a secret") };
        secret
    }

    #[test]
    fn a_secret_is_put_replaced_and_deleted() {
        let (tenant, name) = (TenantId::default(), "db".parse().unwrap());
        let step = |current, input| step(current, &tenant, &name, input, Timestamp::EPOCH);
        let put = step(None, SecretInput::Put("one".into())).unwrap();
        assert_eq!((put.expect, secret(&put).sealed()), (Expect::Absent, Some("one")));
        let replaced = step(Some(secret(&put)), SecretInput::Put("two".into())).unwrap();
        assert_eq!((replaced.expect, secret(&replaced).sealed()), (Expect::Version(1), Some("two")));
        let gone = step(Some(secret(&replaced)), SecretInput::Delete).unwrap();
        assert_eq!((secret(&gone).version(), secret(&gone).sealed()), (3, None));
        assert!(step(Some(secret(&gone)), SecretInput::Delete).is_none(), "it is deleted already");
        assert!(step(None, SecretInput::Delete).is_none());
        let json = serde_json::to_string(&put.events).unwrap();
        assert!(!json.contains("one"), "events never hold a value: {json}");
    }

    #[test]
    fn a_name_is_another_secret_for_each_tenant() {
        let (name, other) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (one, two) = (TenantId::new("one"), TenantId::new("two"));
        assert_eq!(secret_id(&one, &name), secret_id(&one, &name));
        assert!(secret_id(&one, &name) != secret_id(&two, &name));
        assert!(secret_id(&one, &name) != secret_id(&one, &other));
    }
}
