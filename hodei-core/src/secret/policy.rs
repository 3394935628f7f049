use serde::{Deserialize, Serialize};

use super::SecretName;
use crate::job::{Labels, TenantId};

/// Which jobs may have which secrets. A tenant has only its own anyway; a provider says in its
/// [profile](crate::provider::ProviderProfile::secrets) which ones go to its workers.
///
/// A secret that no rule names is for every job of its tenant. One that rules name is for the jobs that one of them lets
/// have it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretPolicy {
    /// The rules, in no order.
    pub rules: Vec<SecretRule>,
}

/// Who may have some secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRule {
    /// The secrets it is about.
    pub secrets: Vec<SecretPattern>,
    /// Jobs of these tenants; of any when there is none.
    #[serde(default)]
    pub tenants: Vec<TenantId>,
    /// Jobs with all these labels.
    #[serde(default)]
    pub labels: Labels,
}

impl SecretPolicy {
    /// Whether a job of a tenant, with these labels, may have a secret.
    pub fn allows(&self, secret: &SecretName, tenant: &TenantId, labels: &Labels) -> bool {
        let mut about =
            self.rules.iter().filter(|rule| rule.secrets.iter().any(|known| known.matches(secret)));
        let Some(first) = about.next() else { return true };
        std::iter::once(first).chain(about).any(|rule| rule.lets(tenant, labels))
    }
}

impl SecretRule {
    fn lets(&self, tenant: &TenantId, labels: &Labels) -> bool {
        (self.tenants.is_empty() || self.tenants.contains(tenant))
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// The name of a secret, or its beginning and a `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretPattern(String);

impl SecretPattern {
    /// A pattern: `db-password`, `prod-*` or `*`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Any secret at all.
    pub fn any() -> Self {
        Self::new("*")
    }

    /// Whether it means this secret.
    pub fn matches(&self, secret: &SecretName) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => secret.as_str().starts_with(beginning),
            None => secret.as_str() == self.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(policy: &SecretPolicy, secret: &str, tenant: &str, label: Option<(&str, &str)>) -> bool {
        let labels = label.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        policy.allows(&secret.parse().unwrap(), &TenantId::new(tenant), &labels)
    }

    #[test]
    fn a_secret_is_for_whom_a_rule_lets_have_it() {
        let policy = SecretPolicy {
            rules: vec![
                SecretRule {
                    secrets: vec![SecretPattern::new("prod-*")],
                    tenants: vec![TenantId::new("ops")],
                    labels: Labels::from([("stage".into(), "prod".into())]),
                },
                SecretRule {
                    secrets: vec![SecretPattern::new("prod-db")],
                    tenants: vec![TenantId::new("dba")],
                    ..SecretRule::default()
                },
            ],
        };
        assert!(allows(&policy, "token", "anybody", None), "no rule names it");
        assert!(allows(&policy, "prod-key", "ops", Some(("stage", "prod"))));
        assert!(!allows(&policy, "prod-key", "ops", None), "the label is missing");
        assert!(!allows(&policy, "prod-key", "dba", Some(("stage", "prod"))), "the rule of another secret");
        assert!(allows(&policy, "prod-db", "dba", None), "one rule is enough");
    }
}
