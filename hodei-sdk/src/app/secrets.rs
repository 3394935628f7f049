//! Secrets of tenants: which jobs may use them, and how their values are resolved.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use hodei_core::access::{Action, Caller};
use hodei_core::job::{FailureCause, JobSpec, TenantId, limits};
use hodei_core::port::{Clock, ClockExt, SecretError, SecretInfo, SecretProvider};
use hodei_core::provider::ProviderProfile;
use hodei_core::secret::{SecretName, SecretPolicy, SecretValue};

use crate::Error;
use crate::app::access::authorizer::Authorizer;
use crate::error::SecretRefusal;
use crate::seam::SecretSeam;

/// Operations on secrets: by their owners, at a submit, and at the delivery of a job.
#[derive(Debug, Clone)]
pub(crate) struct SecretService {
    /// `None` when no secret provider is configured.
    pub(crate) provider: Option<Arc<dyn SecretProvider>>,
    /// May be replaced while the platform runs.
    pub(crate) policy: Arc<RwLock<SecretPolicy>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) authorizer: Authorizer,
}

/// Timeout for resolving the secrets of a job, or of a batch of submits.
pub(crate) const SECRETS_TIMEOUT: Duration = Duration::from_secs(5);

/// Secrets with their values.
pub(crate) type Values = Vec<(SecretName, SecretValue)>;

#[async_trait]
impl SecretSeam for SecretService {
    async fn put(&self, caller: &Caller, name: &SecretName, value: SecretValue) -> Result<(), Error> {
        self.authorizer.allow(caller, Action::ChangeSecrets)?;
        Ok(self.provider()?.put(&caller.tenant, name, value).await?)
    }

    async fn list(&self, caller: &Caller) -> Result<Vec<SecretInfo>, Error> {
        self.authorizer.allow(caller, Action::ListSecrets)?;
        Ok(self.provider()?.list(&caller.tenant).await?)
    }

    async fn delete(&self, caller: &Caller, name: &SecretName) -> Result<bool, Error> {
        self.authorizer.allow(caller, Action::ChangeSecrets)?;
        Ok(self.provider()?.delete(&caller.tenant, name).await?)
    }

    /// Replaces the policy for all later submits and deliveries.
    fn set_policy(&self, policy: SecretPolicy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }
}

impl SecretService {
    fn provider(&self) -> Result<&Arc<dyn SecretProvider>, Error> {
        self.provider.as_ref().ok_or(Error::SecretsDisabled)
    }

    fn allows(&self, name: &SecretName, tenant: &TenantId, spec: &JobSpec) -> bool {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).allows(name, tenant, spec.labels())
    }

    /// Returns for each spec the error that its secrets cause at a submit, if any. Empty when no spec names a secret.
    pub(crate) async fn refusals(&self, tenant: &TenantId, specs: &[&JobSpec]) -> Vec<Option<Error>> {
        let wanted: BTreeSet<SecretName> =
            specs.iter().flat_map(|spec| spec.secrets()).map(|secret| secret.name.clone()).collect();
        if wanted.is_empty() {
            return Vec::new();
        }
        let found = self.clock.timeout(SECRETS_TIMEOUT, self.find(tenant, wanted)).await;
        let found = found.unwrap_or_else(|elapsed| Err(SecretError::Unavailable(elapsed.to_string())));
        let refused = |spec: &JobSpec, name: &SecretName| {
            let refused = |why| Some(Error::SecretRefused { name: name.clone(), why });
            if self.provider.is_none() {
                return Some(Error::SecretsDisabled);
            }
            if !self.allows(name, tenant, spec) {
                return refused(SecretRefusal::Denied);
            }
            match &found {
                Ok(found) if found.contains(name) => None,
                Ok(_) => refused(SecretRefusal::Missing),
                Err(error) => Some(Error::SecretStore(error.clone())),
            }
        };
        let refusal = |spec: &&JobSpec| spec.secrets().iter().find_map(|secret| refused(spec, &secret.name));
        specs.iter().map(refusal).collect()
    }

    /// Returns the wanted secrets that exist.
    async fn find(
        &self,
        tenant: &TenantId,
        wanted: BTreeSet<SecretName>,
    ) -> Result<BTreeSet<SecretName>, SecretError> {
        let Some(provider) = &self.provider else { return Ok(BTreeSet::new()) };
        let wanted: Vec<SecretName> = wanted.into_iter().collect();
        let known = provider.known(tenant, &wanted).await?;
        Ok(wanted.into_iter().zip(known).filter(|(_, known)| *known).map(|(name, _)| name).collect())
    }

    /// Resolves the secret values of a job on a worker of this provider. Checks the policy again, since it may have
    /// changed since the submit.
    pub(crate) async fn values(
        &self,
        tenant: &TenantId,
        spec: &JobSpec,
        profile: &ProviderProfile,
    ) -> Result<Values, Undelivered> {
        let names: Vec<SecretName> = spec.secrets().iter().map(|secret| secret.name.clone()).collect();
        for name in &names {
            if !self.allows(name, tenant, spec) {
                return Err(undeliverable(format!("the policy does not allow `{name}` for this job")));
            }
            if !profile.may_have(name) {
                let provider = &profile.name;
                return Err(undeliverable(format!(
                    "the workers of provider `{provider}` may not have `{name}`"
                )));
            }
        }
        let Some(provider) = &self.provider else {
            return Err(undeliverable(Error::SecretsDisabled.to_string()));
        };
        let found = provider.secrets(tenant, &names).await.map_err(|error| match error {
            SecretError::Unavailable(why) => Undelivered::NotNow(why),
            error => undeliverable(error.to_string()),
        })?;
        let mut values = Vec::with_capacity(names.len());
        for (name, value) in names.into_iter().zip(found) {
            match value {
                Some(value) => values.push((name, value)),
                None => {
                    return Err(undeliverable(format!(
                        "there is no secret `{name}`: put it and submit the job again"
                    )));
                }
            }
        }
        let bytes: usize = values.iter().map(|(_, value)| value.expose().len()).sum();
        if bytes > limits::SECRETS_BYTES {
            let limit = limits::SECRETS_BYTES;
            return Err(undeliverable(format!(
                "its secrets have {bytes} bytes together; the limit is {limit}"
            )));
        }
        Ok(values)
    }
}

fn undeliverable(why: String) -> Undelivered {
    Undelivered::Never(FailureCause::SecretInjection(why))
}

/// Reason for which a job is not delivered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Undelivered {
    /// A later delivery may succeed.
    NotNow(String),
    /// It cannot be delivered, which ends the job.
    Never(FailureCause),
}
