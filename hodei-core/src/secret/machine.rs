//! The state machine of a secret.

use std::sync::Arc;

use super::SecretName;
use super::state::Secret;
use crate::decision::{Aggregate, Decision, Expect};
use crate::event::DomainEvent;
use crate::job::TenantId;
use crate::time::Timestamp;

/// The inputs of the state machine.
#[derive(Debug, Clone, PartialEq)]
pub enum SecretInput {
    /// The secret gets this sealed value.
    Put(String),
    /// The secret is deleted.
    Delete,
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

#[cfg(test)]
mod tests {
    use super::super::state::secret_id;
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
