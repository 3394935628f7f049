use std::str::FromStr;

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
#[serde(try_from = "String", into = "String")]
pub struct SecretPattern(String);

impl SecretPattern {
    /// Any secret at all.
    pub fn any() -> Self {
        Self("*".into())
    }

    /// Whether it means this secret.
    pub fn matches(&self, secret: &SecretName) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => secret.as_str().starts_with(beginning),
            None => secret.as_str() == self.0,
        }
    }
}

impl FromStr for SecretPattern {
    type Err = ParseSecretPatternError;

    fn from_str(text: &str) -> Result<Self, ParseSecretPatternError> {
        // One that means nothing would leave what it should guard to everybody.
        let beginning = text.strip_suffix('*').unwrap_or(text);
        let is_any = beginning.is_empty() && !text.is_empty();
        if is_any || beginning.parse::<SecretName>().is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseSecretPatternError(text.chars().filter(|c| !c.is_control()).take(64).collect()))
        }
    }
}

impl TryFrom<String> for SecretPattern {
    type Error = ParseSecretPatternError;

    fn try_from(text: String) -> Result<Self, ParseSecretPatternError> {
        text.parse()
    }
}

impl From<SecretPattern> for String {
    fn from(pattern: SecretPattern) -> Self {
        pattern.0
    }
}

/// A text that means no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` means no secrets: write the name of one, or its beginning and a `*` at the end")]
pub struct ParseSecretPatternError(String);

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
                    secrets: vec!["prod-*".parse().unwrap()],
                    tenants: vec![TenantId::new("ops")],
                    labels: Labels::from([("stage".into(), "prod".into())]),
                },
                SecretRule {
                    secrets: vec!["prod-db".parse().unwrap()],
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

    #[test]
    fn a_pattern_that_means_nothing_is_none() {
        for text in ["db", "prod-*", "*"] {
            assert!(text.parse::<SecretPattern>().is_ok(), "{text}");
        }
        for text in ["", "*-prod", "a*b", "**", "a/b*", " x"] {
            assert!(text.parse::<SecretPattern>().is_err(), "{text}");
        }
    }
}
