//! The offer of a provider, and which jobs it can honour.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::job::{JobResources, JobSpec, Labels};
use crate::secret::{SecretName, SecretPattern};
use crate::worker::{Lifetime, LimitHold, WorkerCapacity};

/// The offer of a provider: the platform reads it when the provider is configured, and the scheduler plans with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderProfile {
    /// Its name in the configuration; unique.
    pub name: String,
    /// `local`, `process`, `docker`…
    pub kind: String,
    /// Whether it runs a job's container image.
    pub runs_images: bool,
    /// The capacity of each worker it creates.
    pub capacity: WorkerCapacity,
    /// The labels of each worker it creates, beside its id.
    pub labels: Labels,
    /// Maximum number of its workers at once.
    pub max_workers: u32,
    /// Lifetime policy of its workers.
    pub lifetime: Lifetime,
    /// The secrets that its workers may be given.
    #[serde(default = "all_secrets")]
    pub secrets: Vec<SecretPattern>,
    /// Whether jobs with limits run only in workers that enforce them.
    #[serde(default)]
    pub requires_limits: bool,
}

/// The default of [`ProviderProfile::secrets`]: any secret.
fn all_secrets() -> Vec<SecretPattern> {
    vec![SecretPattern::any()]
}

impl ProviderProfile {
    /// Checks whether a worker of this provider could ever run `spec`.
    ///
    /// # Errors
    /// The first field that the provider cannot honour.
    pub fn can_honour(&self, spec: &JobSpec) -> Result<(), Unsupported> {
        let unsupported = |field: &'static str, why: String| Err(Unsupported { field: field.into(), why });
        if spec.image().is_some() && !self.runs_images {
            return unsupported("image", format!("provider `{}` does not run container images", self.name));
        }
        if let Some((field, asked, have)) = spec.resources().exceeds(&self.capacity.resources) {
            let name = &self.name;
            return unsupported(field, format!("is {asked}, and a worker of provider `{name}` has {have}"));
        }
        if let Some(field) = spec.resources().limit().filter(|_| !self.may_be_limited(&self.labels)) {
            let name = &self.name;
            return unsupported(
                field,
                format!(
                    "workers of provider `{name}` cannot make control groups, so they cannot enforce limits, and its configuration says `limits = \"require\"`"
                ),
            );
        }
        let secret = spec.secrets().iter().find(|secret| !self.may_have(&secret.name));
        if let Some(secret) = secret {
            let (secret, name) = (&secret.name, &self.name);
            return unsupported("secrets", format!("`{secret}` is not for the workers of provider `{name}`"));
        }
        match spec.constraints().iter().find(|constraint| !constraint.is_met_by(&self.labels)) {
            Some(unmet) => unsupported(
                "constraints",
                format!("`{unmet}` is not met by the workers of provider `{}`", self.name),
            ),
            None => Ok(()),
        }
    }

    /// Whether a worker with these labels may run jobs with limits.
    pub fn may_be_limited(&self, labels: &Labels) -> bool {
        !self.requires_limits || LimitHold::of(labels) == Some(LimitHold::Held)
    }

    /// Whether its workers may be given a secret.
    pub fn may_have(&self, secret: &SecretName) -> bool {
        self.secrets.iter().any(|pattern| pattern.matches(secret))
    }

    /// Returns the resources of one worker.
    pub fn resources(&self) -> &JobResources {
        &self.capacity.resources
    }
}

/// A field of a spec that no provider can honour.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Unsupported {
    /// The field of the spec.
    pub field: Cow<'static, str>,
    /// The provider that cannot honour it, and the amount or condition that it offers.
    pub why: String,
}

/// Returns why no provider can honour a spec, by the first provider's reason; `None` when one can, or there are none.
pub fn refusal<'a>(
    profiles: impl IntoIterator<Item = &'a ProviderProfile>,
    spec: &JobSpec,
) -> Option<Unsupported> {
    let mut first = None;
    for profile in profiles {
        match profile.can_honour(spec) {
            Ok(()) => return None,
            Err(unsupported) => {
                first.get_or_insert(unsupported);
            }
        }
    }
    first
}
