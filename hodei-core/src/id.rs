//! Identifiers: UUID newtypes made by one macro, whose `Display` and `FromStr` round-trip.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::{Uuid, Variant};

use crate::time::Timestamp;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID; an [`IdGenerator`](crate::port::IdGenerator) makes version 7.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Returns the UUID inside.
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }

            /// Reads the sixteen bytes of the wire form; `None` for any other length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.as_hyphenated(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.as_hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|_| ParseIdError { kind: stringify!($name), text: text.chars().take(64).collect() })
            }
        }
    )+};
}

ids! {
    /// Id of a job. The client makes it, so that a repeated submit finds the first job.
    JobId,
    /// Id of one incarnation of a worker.
    WorkerId,
    /// Id of a configured provider.
    ProviderId,
    /// Id of a stored order for one worker; the names of the created resources derive from it.
    OrderId,
    /// Id of an event.
    EventId,
    /// Id of a token for clients.
    TokenId,
    /// Id of a secret, derived from its tenant and name.
    SecretId,
    /// Id of a store, which also marks everything that its platforms create as theirs.
    StoreId,
    /// Id of one start of a daemon, or of a program that embeds the platform.
    DaemonId,
}

impl JobId {
    /// Returns the time in an id of UUID version 7, to the millisecond; `None` for any other version.
    pub fn made_at(&self) -> Option<Timestamp> {
        let is_seventh = self.0.get_version_num() == 7 && self.0.get_variant() == Variant::RFC4122;
        let millis = self.0.as_u128() >> 80;
        is_seventh.then(|| Timestamp::from_micros(i64::try_from(millis * 1000).unwrap_or(i64::MAX)))
    }
}

/// One attempt at a job: the job and its fencing number.
///
/// The number rises by one at each assignment and is never reused, so a late message about an earlier attempt is
/// told from one about the current attempt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The job.
    pub job: JobId,
    /// The fencing number, from 1.
    pub number: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.job, self.number)
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AttemptId({self})")
    }
}

impl FromStr for AttemptId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let refuse = || ParseIdError { kind: "AttemptId", text: text.chars().take(64).collect() };
        let (job, number) = text.split_once('/').ok_or_else(refuse)?;
        Ok(Self { job: job.parse().map_err(|_| refuse())?, number: number.parse().map_err(|_| refuse())? })
    }
}

/// The text is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: expected a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057")]
pub struct ParseIdError {
    kind: &'static str,
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_as_text() {
        let job: JobId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(job.to_string().parse::<JobId>().unwrap(), job);
        let attempt = AttemptId { job, number: 3 };
        assert_eq!(attempt.to_string().parse::<AttemptId>().unwrap(), attempt);
    }

    #[test]
    fn a_parse_error_names_the_text_and_the_kind_of_id() {
        let error = "nonsense".parse::<JobId>().unwrap_err().to_string();
        assert!(error.contains("nonsense") && error.contains("JobId"), "{error}");
        assert!("01890a5d-ac96-774b-bcce-b302099a8057/x".parse::<AttemptId>().is_err());
    }
}
