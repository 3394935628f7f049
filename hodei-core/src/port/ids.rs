//! The port of ids and randomness.

use std::fmt::Debug;

use uuid::Uuid;

use crate::time::Timestamp;

/// The only source of new ids and of randomness.
pub trait IdGenerator: Debug + Send + Sync + 'static {
    /// Makes a UUID of version 7 for this time of day; no two are equal.
    fn uuid(&self, at: Timestamp) -> Uuid;

    /// Returns a random number in `0.0..1.0`, for jitter.
    fn fraction(&self) -> f64;

    /// Returns unguessable bytes, for tokens.
    fn secret(&self) -> [u8; 32];
}
