//! Names of the files, directories and control groups of attempts on a host. They encode the owner and the worker.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hodei_core::id::{StoreId, WorkerId};
use uuid::Uuid;

/// Prefix of every name.
pub(in crate::executor) const PREFIX: &str = "hodei-";

/// Returns an owner and one of its providers in the form of a mark.
pub(in crate::executor) fn owner_of(owner: StoreId, provider: &str) -> String {
    format!("{owner}/{provider}")
}

/// Returns the prefix of the names of a provider's workers.
pub(crate) fn prefix_of_provider(owner: StoreId, provider: &str) -> String {
    prefix_of_owner(&owner_of(owner, provider))
}

/// Returns the prefix of an owner's names, of a fixed length.
pub(in crate::executor) fn prefix_of_owner(owner: &str) -> String {
    format!("{PREFIX}{}.", Uuid::new_v5(&Uuid::NAMESPACE_URL, owner.as_bytes()).simple())
}

/// Returns the prefix of a worker's directories for temporary files. It is short: a socket path has at most 107 bytes,
/// and programs put sockets a few names below TMPDIR.
pub(in crate::executor) fn temp_prefix(owner: &str, worker: WorkerId) -> String {
    format!("{}{}.", temp_prefix_of_owner(owner), short(worker.to_string().as_bytes()))
}

/// Length of such a prefix in bytes.
pub(in crate::executor) const TEMP_PREFIX_BYTES: usize = PREFIX.len() + 8 + 8 + 1;

pub(in crate::executor) fn temp_prefix_of_owner(owner: &str) -> String {
    format!("{PREFIX}{}", short(owner.as_bytes()))
}

/// Returns 48 bits of a hash as eight characters, enough to tell the owners and workers of one machine apart.
fn short(name: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&Uuid::new_v5(&Uuid::NAMESPACE_URL, name).as_bytes()[..6])
}

/// Returns the worker in the name of something that its attempts or its agent own.
pub(crate) fn worker_of(name: &str) -> Option<WorkerId> {
    name.split('.').nth(1)?.parse().ok()
}
