//! The name and identity of this machine among those that share a store.
//!
//! The names of process providers contain the name of their machine. Two machines or containers may have the same host
//! name, and neither sees the processes of the other. The second therefore gets another name.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use hodei_core::id::ProviderId;
use hodei_core::port::{Store, StoreError};
use hodei_core::provider::Provider;
use sha2::{Digest, Sha256};

use crate::app::{Membership, lease_of};
use crate::provider::MACHINE_LABEL;

/// Number of names that are tried for one host name.
const MAX_NAMESAKES: usize = 100;
/// The link of the initial namespace of process ids (inode `PROC_PID_INIT_INO` of Linux).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// A machine as it is known in a shared store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// The host name, with a number appended if another machine has the same.
    pub(crate) name: String,
    /// Equal for two daemons exactly if they see the same processes.
    pub(crate) identity: String,
}

impl Machine {
    /// Returns this machine, under a name that no other machine currently uses.
    pub(super) async fn find(store: &Arc<dyn Store>, membership: &Membership) -> Result<Self, StoreError> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let providers = store.providers().await?;
        let workers = store.live_workers().await?;
        let working: BTreeSet<ProviderId> = workers.iter().map(|worker| worker.order().provider).collect();
        let is_used =
            |id| working.contains(&id) || membership.with(|seen, now| seen.is_held(&lease_of(id), now));
        let machine = choose(&host, identity(), &providers, is_used);
        if machine.name != host {
            tracing::info!(
                "another machine with the host name `{host}` uses the store: this one is named `{}`",
                machine.name
            );
        }
        Ok(machine)
    }
}

/// Returns the name that this machine already has, otherwise the first that no other machine uses.
fn choose(
    host: &str,
    identity: String,
    providers: &[Arc<Provider>],
    is_used: impl Fn(ProviderId) -> bool,
) -> Machine {
    let names = |number: usize| if number == 1 { host.to_owned() } else { format!("{host}-{number}") };
    let of = |name: &str| {
        let end = format!("@{name}");
        let found = providers.iter().filter(move |provider| provider.profile().name.ends_with(&end));
        found.map(|provider| (provider.id(), provider.profile().labels.get(MACHINE_LABEL)))
    };
    let is_own = |name: &String| of(name).any(|(_, machine)| machine == Some(&identity));
    // A provider without a machine label counts as one of this host name: the label is optional in the store.
    let is_free = |name: &String| of(name).all(|(id, machine)| machine.is_none() || !is_used(id));
    let mut all = (1..=MAX_NAMESAKES).map(names);
    let name = all.find(is_own).or_else(|| (1..=MAX_NAMESAKES).map(names).find(is_free));
    let name = name.unwrap_or_else(|| format!("{host}-{identity}"));
    Machine { name, identity }
}

/// Digest of the machine, and of its namespace of process ids unless that is the initial one.
fn identity() -> String {
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let mut id = id.trim().to_owned();
    if id.is_empty() || namespace != Path::new(FIRST_PID_NAMESPACE) {
        // Containers on two machines may share the machine id of their image and the number of a namespace.
        id += std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim();
    }
    digest(&id, &namespace)
}

fn digest(id: &str, namespace: &Path) -> String {
    let mut hash = Sha256::new();
    hash.update(id);
    if namespace != Path::new(FIRST_PID_NAMESPACE) {
        hash.update(namespace.as_os_str().as_encoded_bytes());
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use hodei_core::decision::Aggregate;
    use hodei_core::job::{JobResources, Labels};
    use hodei_core::provider::{ProviderInput, ProviderProfile, step};
    use hodei_core::time::Timestamp;
    use hodei_core::worker::{Lifetime, WorkerCapacity};
    use uuid::Uuid;

    use super::*;

    fn provider(number: u128, name: &str, machine: Option<&str>) -> Arc<Provider> {
        let labels: Labels =
            machine.map(|machine| (MACHINE_LABEL.to_owned(), machine.to_owned())).into_iter().collect();
        let profile = ProviderProfile {
            name: name.into(),
            kind: "process".into(),
            runs_images: false,
            capacity: WorkerCapacity { slots: 1, prefetch: 0, resources: JobResources::default() },
            labels,
            max_workers: 1,
            lifetime: Lifetime::default(),
            secrets: Vec::new(),
            requires_limits: false,
        };
        let id = ProviderId::from_uuid(Uuid::from_u128(number));
        let made = step(None, ProviderInput::Configure { id, profile }, Timestamp::EPOCH).unwrap();
        let Aggregate::Provider(provider) = made.next else { panic!() };
        provider
    }

    fn name(providers: &[Arc<Provider>], used: &[u128]) -> String {
        let used: Vec<_> =
            used.iter().map(|number| ProviderId::from_uuid(Uuid::from_u128(*number))).collect();
        choose("h", "own".into(), providers, |id| used.contains(&id)).name
    }

    #[test]
    fn every_machine_has_its_own_name() {
        let (old, own, other) = (None, Some("own"), Some("other"));
        assert_eq!(name(&[], &[]), "h");
        assert_eq!(name(&[provider(1, "process@h", old)], &[1]), "h", "a provider without a machine label");
        assert_eq!(name(&[provider(1, "process@h", own)], &[1]), "h", "a second daemon of this machine");
        assert_eq!(name(&[provider(1, "process@h", other)], &[1]), "h-2");
        assert_eq!(name(&[provider(1, "process@h", other)], &[]), "h", "the other machine is gone");
        let both = [provider(1, "process@h", other), provider(2, "process@h-2", own)];
        assert_eq!(name(&both, &[2]), "h-2", "it keeps its name");
        let both = [provider(1, "process@h", other), provider(2, "process@h-2", other)];
        assert_eq!(name(&both, &[1, 2]), "h-3");
        assert_eq!(name(&[provider(1, "process@else", other)], &[1]), "h");
    }

    #[test]
    fn a_container_is_a_machine_of_its_own() {
        let first = Path::new(FIRST_PID_NAMESPACE);
        assert_eq!(digest("a", first), digest("a", first));
        assert_ne!(digest("a", first), digest("b", first));
        assert_ne!(digest("a", first), digest("a", Path::new("pid:[1]")));
    }
}
