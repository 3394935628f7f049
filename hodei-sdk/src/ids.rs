//! Where ids and chance come from.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hodei_core::port::IdGenerator;
use hodei_core::time::Timestamp;
use uuid::Uuid;

/// Random ids: seeded by the system, and never equal between two generators.
#[derive(Debug)]
pub struct SystemIds {
    seed: RandomState,
    count: AtomicU64,
}

impl Default for SystemIds {
    fn default() -> Self {
        Self { seed: RandomState::new(), count: AtomicU64::new(0) }
    }
}

impl SystemIds {
    /// Sixty-four bits by SipHash of a counter under a key from the system.
    fn random(&self) -> u64 {
        let mut hasher = self.seed.build_hasher();
        hasher.write_u64(self.count.fetch_add(1, Ordering::Relaxed));
        hasher.write_u32(std::process::id());
        hasher.finish()
    }
}

impl IdGenerator for SystemIds {
    fn uuid(&self, at: Timestamp) -> Uuid {
        version_7(at, self.random(), self.random())
    }

    fn fraction(&self) -> f64 {
        fraction(self.random())
    }

    /// # Panics
    /// When the system gives no random bytes: no token could be trusted then.
    fn secret(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the system gives random bytes");
        bytes
    }
}

/// Ids from a seed: the same seed gives the same ids in the same order.
#[derive(Debug)]
pub struct SeededIds(Mutex<u64>);

impl SeededIds {
    /// A generator for this seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// The next sixty-four bits, by SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
    /// generators", 2014).
    pub fn random(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl IdGenerator for SeededIds {
    fn uuid(&self, at: Timestamp) -> Uuid {
        version_7(at, self.random(), self.random())
    }

    fn fraction(&self) -> f64 {
        fraction(self.random())
    }

    fn secret(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&self.random().to_be_bytes()));
        bytes
    }
}

fn version_7(at: Timestamp, high: u64, low: u64) -> Uuid {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&high.to_be_bytes());
    random[8..].copy_from_slice(&low.to_be_bytes()[..2]);
    let millis = u64::try_from(at.as_micros() / 1000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
