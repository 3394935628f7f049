//! Hashes of bootstrap tokens and session credentials, and the reasons to refuse an agent.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hex;
use crate::id::WorkerId;
use crate::time::Timestamp;

/// The SHA-256 of a bootstrap token or a session credential. Only the hash is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Wraps a hash that was computed elsewhere.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretHash({self})")
    }
}

impl FromStr for SecretHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex::read(text).map(Self).ok_or("not a hash: a hash has 64 hexadecimal digits")
    }
}

impl Serialize for SecretHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SecretHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Returns the worker that a bootstrap token or a session credential names, so that no search is needed: both have the
/// form `WORKER.SECRET`.
pub fn worker_of(secret: &str) -> Option<WorkerId> {
    secret.split_once('.')?.0.parse().ok()
}

/// A bootstrap token that was handed to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// Its hash.
    pub hash: SecretHash,
    /// Time of its creation.
    pub at: Timestamp,
}

/// Why an agent is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// The worker has no such token.
    #[error("the bootstrap token is not known")]
    Unknown,
    /// The token is too old.
    #[error("the bootstrap token has expired")]
    Expired,
    /// Another agent used the token.
    #[error("another agent is this worker already")]
    Used,
    /// The worker is terminated.
    #[error("the worker is not wanted any more")]
    Gone,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_round_trips_as_text() {
        let hash = SecretHash::from_bytes([0xa5; 32]);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("a5".parse::<SecretHash>().is_err() && "g".repeat(64).parse::<SecretHash>().is_err());
    }
}
