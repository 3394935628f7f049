//! The state machine of a provider.

use std::sync::Arc;

use super::profile::ProviderProfile;
use super::state::{Provider, ProviderHealth};
use crate::decision::{Aggregate, Decision, Expect};
use crate::event::DomainEvent;
use crate::id::ProviderId;
use crate::time::Timestamp;

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
