//! The provider aggregate: a configured place that creates workers, its profile, its health and its state machine.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decision::{Aggregate, Decision, Expect};
use crate::event::DomainEvent;
use crate::id::ProviderId;
use crate::job::{JobResources, JobSpec, Labels};
use crate::secret::{SecretName, SecretPattern};
use crate::time::Timestamp;
use crate::worker::{Lifetime, LimitHold, WorkerCapacity};

/// The provider aggregate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provider {
    id: ProviderId,
    version: u64,
    profile: ProviderProfile,
    health: ProviderHealth,
    registered_at: Timestamp,
}

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
        let unsupported = |field: &'static str, why: String| Err(Unsupported { field, why });
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
    pub field: &'static str,
    /// The provider that cannot honour it, and the amount or condition that it offers.
    pub why: String,
}

/// Whether the last workers of a provider were created and connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderHealth {
    /// They were, or none was ordered yet.
    Healthy,
    /// Its workers cannot be created, or do not connect; no worker is ordered before `retry_at`.
    Unhealthy {
        /// When the next worker may be ordered.
        retry_at: Timestamp,
        /// The problem, and the remedy where one is known; empty when an older version stored it.
        #[serde(default)]
        why: String,
    },
}

/// The inputs of the state machine of a provider.
#[derive(Debug, Clone, PartialEq)]
pub enum ProviderInput {
    /// The provider was configured, or its configuration was read again.
    Configure {
        /// Its id; used the first time only.
        id: ProviderId,
        /// Its profile.
        profile: ProviderProfile,
    },
    /// Its workers fail to start, or start again.
    Observe(ProviderHealth),
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

/// Computes the next state of a provider; `None` when nothing changes.
pub fn step(current: Option<&Provider>, input: ProviderInput, now: Timestamp) -> Option<Decision> {
    let event = match (current, input) {
        (None, ProviderInput::Configure { id, profile }) => {
            let event = DomainEvent::ProviderRegistered { profile: profile.clone() };
            let health = ProviderHealth::Healthy;
            let next = Provider { id, version: 1, profile, health, registered_at: now };
            return Some(decide(Expect::Absent, next, event, now));
        }
        (None, _) => return None,
        (Some(provider), ProviderInput::Configure { profile, .. }) if provider.profile != profile => {
            DomainEvent::ProviderUpdated { profile }
        }
        (Some(provider), ProviderInput::Observe(health)) if provider.health != health => {
            DomainEvent::ProviderHealthChanged { health }
        }
        (Some(_), _) => return None,
    };
    let mut next = current?.clone();
    let expect = Expect::Version(next.version);
    next.version += 1;
    match &event {
        DomainEvent::ProviderUpdated { profile } => next.profile = profile.clone(),
        DomainEvent::ProviderHealthChanged { health } => next.health = health.clone(),
        _ => {}
    }
    Some(decide(expect, next, event, now))
}

fn decide(expect: Expect, next: Provider, event: DomainEvent, at: Timestamp) -> Decision {
    Decision {
        expect,
        next: Aggregate::Provider(Arc::new(next)),
        at,
        events: vec![event],
        effects: Vec::new(),
    }
}

impl Provider {
    /// How long nothing is ordered from a provider whose workers fail to start.
    pub const REST: Duration = Duration::from_secs(5);

    /// Returns the id.
    pub fn id(&self) -> ProviderId {
        self.id
    }

    /// Returns the version, which rises by one with each transition, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the profile.
    pub fn profile(&self) -> &ProviderProfile {
        &self.profile
    }

    /// Returns the health.
    pub fn health(&self) -> &ProviderHealth {
        &self.health
    }

    /// Returns the problem, when the provider is unhealthy and the problem is known.
    pub fn trouble(&self) -> Option<&str> {
        match &self.health {
            ProviderHealth::Unhealthy { why, .. } if !why.is_empty() => Some(why),
            _ => None,
        }
    }

    /// Returns when the provider was first configured.
    pub fn registered_at(&self) -> Timestamp {
        self.registered_at
    }
}
