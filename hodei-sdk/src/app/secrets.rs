//! Secrets of tenants: who may have which, and where their values are.

use std::collections::BTreeSet;
use std::sync::Arc;

use hodei_core::access::{Action, Caller};
use hodei_core::job::{FailureCause, JobSpec, TenantId, limits};
use hodei_core::port::{SecretError, SecretInfo, SecretProvider};
use hodei_core::provider::ProviderProfile;
use hodei_core::secret::{SecretName, SecretPolicy, SecretValue};

use super::AuditService;
use crate::Error;
use crate::error::SecretRefusal;

/// What is done with secrets: by their owners, at a submit, and at a delivery.
#[derive(Debug, Clone)]
pub(crate) struct SecretService {
    /// None where nobody said where they are.
    pub(crate) provider: Option<Arc<dyn SecretProvider>>,
    pub(crate) policy: Arc<SecretPolicy>,
    pub(crate) audit: AuditService,
}

/// Secrets with their values.
pub(crate) type Values = Vec<(SecretName, SecretValue)>;

impl SecretService {
    fn provider(&self) -> Result<&Arc<dyn SecretProvider>, Error> {
        self.provider.as_ref().ok_or(Error::NoSecrets)
    }

    pub(crate) async fn put(
        &self,
        caller: &Caller,
        name: &SecretName,
        value: SecretValue,
    ) -> Result<(), Error> {
        self.audit.allow(caller, Action::ChangeSecrets)?;
        Ok(self.provider()?.put(&caller.tenant, name, value).await?)
    }

    pub(crate) async fn list(&self, caller: &Caller) -> Result<Vec<SecretInfo>, Error> {
        self.audit.allow(caller, Action::ListSecrets)?;
        Ok(self.provider()?.list(&caller.tenant).await?)
    }

    pub(crate) async fn delete(&self, caller: &Caller, name: &SecretName) -> Result<bool, Error> {
        self.audit.allow(caller, Action::ChangeSecrets)?;
        Ok(self.provider()?.delete(&caller.tenant, name).await?)
    }

    /// Why each of some specs may not be submitted, for the sake of its secrets; empty when no spec names any.
    pub(crate) async fn refusals(
        &self,
        tenant: &TenantId,
        specs: &[&JobSpec],
    ) -> Result<Vec<Option<Error>>, Error> {
        let wanted: BTreeSet<&SecretName> =
            specs.iter().flat_map(|spec| spec.secrets()).map(|secret| &secret.name).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<SecretName> = wanted.into_iter().cloned().collect();
        let known = self.provider()?.known(tenant, &wanted).await?;
        let missing: BTreeSet<&SecretName> =
            wanted.iter().zip(known).filter(|(_, known)| !known).map(|(name, _)| name).collect();
        let refusal = |spec: &&JobSpec| {
            let refused = |name: &SecretName| {
                let why = if !self.policy.allows(name, tenant, spec.labels()) {
                    SecretRefusal::Denied
                } else if missing.contains(name) {
                    SecretRefusal::Missing
                } else {
                    return None;
                };
                Some(Error::Secret { name: name.clone(), why })
            };
            spec.secrets().iter().find_map(|secret| refused(&secret.name))
        };
        Ok(specs.iter().map(refusal).collect())
    }

    /// The values that a job is given in a worker of this provider: asked again, since what a submit was told may have
    /// changed.
    pub(crate) async fn values(
        &self,
        tenant: &TenantId,
        spec: &JobSpec,
        profile: &ProviderProfile,
    ) -> Result<Values, Undelivered> {
        let names: Vec<SecretName> = spec.secrets().iter().map(|secret| secret.name.clone()).collect();
        for name in &names {
            if !self.policy.allows(name, tenant, spec.labels()) {
                return Err(never(format!("`{name}` is not for this job")));
            }
            if !profile.may_have(name) {
                let provider = &profile.name;
                return Err(never(format!("`{name}` is not for the workers of provider `{provider}`")));
            }
        }
        let Some(provider) = &self.provider else {
            return Err(never(Error::NoSecrets.to_string()));
        };
        let found = provider.secrets(tenant, &names).await.map_err(|error| match error {
            SecretError::Unavailable(why) => Undelivered::NotNow(why),
            error => never(error.to_string()),
        })?;
        let mut values = Vec::with_capacity(names.len());
        for (name, value) in names.into_iter().zip(found) {
            match value {
                Some(value) => values.push((name, value)),
                None => return Err(never(format!("there is no secret `{name}`"))),
            }
        }
        let bytes: usize = values.iter().map(|(_, value)| value.expose().len()).sum();
        if bytes > limits::SECRETS_BYTES {
            let limit = limits::SECRETS_BYTES;
            return Err(never(format!("they have {bytes} bytes together; the limit is {limit}")));
        }
        Ok(values)
    }
}

fn never(why: String) -> Undelivered {
    Undelivered::Never(FailureCause::SecretInjection(why))
}

/// Why a job is not given what it wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Undelivered {
    /// It may be given them later.
    NotNow(String),
    /// It cannot have them, which ends it.
    Never(FailureCause),
}
