//! The policy of which jobs may have which secrets.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SecretName;
use crate::job::{Labels, TenantId};

/// Which jobs may have which secrets. A job gets only secrets of its own tenant in any case, and the
/// [profile](crate::provider::ProviderProfile::secrets) of a provider limits the secrets of its workers.
///
/// Every job of the tenant may have a secret that no rule names. Only jobs that match one of its rules may have a
/// secret that rules name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretPolicy {
    /// The rules; their order has no meaning.
    pub rules: Vec<SecretRule>,
}

/// A rule that lets some jobs have some secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRule {
    /// The secrets that the rule names.
    pub secrets: Vec<SecretPattern>,
    /// The tenants of the jobs; empty means any tenant.
    #[serde(default)]
    pub tenants: Vec<TenantId>,
    /// The labels that the jobs must have, all of them.
    #[serde(default)]
    pub labels: Labels,
}

impl SecretPolicy {
    /// Whether a job of this tenant, with these labels, may have a secret.
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

/// A pattern for secrets: a name, or the beginning of a name and a `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretPattern(String);

impl SecretPattern {
    /// Returns the pattern that matches any secret.
    pub fn any() -> Self {
        Self("*".into())
    }

    /// Whether the pattern matches a secret.
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
        // A pattern that matches no secret would leave the secret that it should guard open to every job.
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

/// The text is not a valid pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid pattern for secrets: write a name, or the beginning of a name and a `*`")]
pub struct ParseSecretPatternError(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(policy: &SecretPolicy, secret: &str, tenant: &str, label: Option<(&str, &str)>) -> bool {
        let labels = label.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        policy.allows(&secret.parse().unwrap(), &TenantId::new(tenant), &labels)
    }

    #[test]
    fn only_jobs_that_match_a_rule_of_a_secret_may_have_it() {
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
        assert!(allows(&policy, "token", "any", None), "no rule names it");
        assert!(allows(&policy, "prod-key", "ops", Some(("stage", "prod"))));
        assert!(!allows(&policy, "prod-key", "ops", None), "the label is missing");
        assert!(!allows(&policy, "prod-key", "dba", Some(("stage", "prod"))), "the rule of another secret");
        assert!(allows(&policy, "prod-db", "dba", None), "one rule is enough");
    }

    #[test]
    fn a_pattern_that_matches_no_secret_is_refused() {
        for text in ["db", "prod-*", "*"] {
            assert!(text.parse::<SecretPattern>().is_ok(), "{text}");
        }
        for text in ["", "*-prod", "a*b", "**", "a/b*", " x"] {
            assert!(text.parse::<SecretPattern>().is_err(), "{text}");
        }
    }
}
