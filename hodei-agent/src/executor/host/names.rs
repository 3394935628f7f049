//! Names of what attempts have on a host beside processes: they say whose it is.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hodei_core::id::{StoreId, WorkerId};
use uuid::Uuid;

/// What every name begins with.
pub(in crate::executor) const PREFIX: &str = "hodei-";

/// An owner and one of its providers, as a mark has them.
pub(in crate::executor) fn owner_of(owner: StoreId, provider: &str) -> String {
    format!("{owner}/{provider}")
}

/// What the names of all that workers of a provider have begin with.
pub(crate) fn prefix_of_provider(owner: StoreId, provider: &str) -> String {
    prefix_of_owner(&owner_of(owner, provider))
}

/// Fixed in length, whatever a provider is called.
pub(in crate::executor) fn prefix_of_owner(owner: &str) -> String {
    format!("{PREFIX}{}.", Uuid::new_v5(&Uuid::NAMESPACE_URL, owner.as_bytes()).simple())
}

/// What the names of directories for temporary files of a worker begin with. They are short: a path of a socket has at
/// most 107 bytes, and programs put sockets a few names below TMPDIR.
pub(in crate::executor) fn temp_prefix(owner: &str, worker: WorkerId) -> String {
    format!("{}{}.", temp_prefix_of_owner(owner), short(worker.to_string().as_bytes()))
}

/// Bytes of such a prefix.
pub(in crate::executor) const TEMP_PREFIX_BYTES: usize = PREFIX.len() + 8 + 8 + 1;

pub(in crate::executor) fn temp_prefix_of_owner(owner: &str) -> String {
    format!("{PREFIX}{}", short(owner.as_bytes()))
}

/// 48 bits of a hash, which tell the owners and workers of one machine apart, in eight characters.
fn short(name: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&Uuid::new_v5(&Uuid::NAMESPACE_URL, name).as_bytes()[..6])
}

/// The worker in a name that one of its attempts, or its agent, gave.
pub(crate) fn worker_of(name: &str) -> Option<WorkerId> {
    name.split('.').nth(1)?.parse().ok()
}
