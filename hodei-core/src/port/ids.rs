use std::fmt::Debug;

use uuid::Uuid;

use crate::time::Timestamp;

/// The one source of new ids and of chance.
pub trait IdGenerator: Debug + Send + Sync + 'static {
    /// A new UUID of version 7 for this time of day; two are never equal.
    fn uuid(&self, at: Timestamp) -> Uuid;

    /// A number in `0.0..1.0`, for jitter.
    fn fraction(&self) -> f64;

    /// Bytes that nobody can guess, for tokens.
    fn secret(&self) -> [u8; 32];
}
