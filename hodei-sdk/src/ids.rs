//! Generators of ids and random numbers.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use hodei_core::port::IdGenerator;
use hodei_core::time::Timestamp;
use uuid::Uuid;

/// Random ids, seeded by the system: no two generators give the same id, and the ids of one generator rise.
#[derive(Debug)]
pub struct SystemIds {
    seed: RandomState,
    count: AtomicU64,
    last: Mutex<RisingUuids>,
}

impl Default for SystemIds {
    fn default() -> Self {
        Self { seed: RandomState::new(), count: AtomicU64::new(0), last: Mutex::default() }
    }
}

impl SystemIds {
    /// Returns 64 random bits: the SipHash of a counter, under a key from the system.
    fn random(&self) -> u64 {
        let mut hasher = self.seed.build_hasher();
        hasher.write_u64(self.count.fetch_add(1, Ordering::Relaxed));
        hasher.write_u32(std::process::id());
        hasher.finish()
    }
}

impl IdGenerator for SystemIds {
    fn uuid(&self, at: Timestamp) -> Uuid {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).next(at, [self.random(), self.random()])
    }

    fn fraction(&self) -> f64 {
        fraction(self.random())
    }

    /// # Panics
    /// When the system provides no random bytes, because no token would be trustworthy.
    fn secret(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the system provides random bytes");
        bytes
    }
}

/// Ids from a seed: the same seed gives the same ids in the same order, and each id is higher than the previous ones.
#[derive(Debug)]
pub struct SeededIds(Mutex<u64>, Mutex<RisingUuids>);

impl SeededIds {
    /// Creates a generator for this seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed), Mutex::default())
    }

    /// Returns the next 64 bits, by SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
    /// 2014).
    pub fn random(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl IdGenerator for SeededIds {
    fn uuid(&self, at: Timestamp) -> Uuid {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).next(at, [self.random(), self.random()])
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

/// Makes rising UUIDs of version 7, by method 2 of RFC 9562, section 6.2: within a millisecond the random part grows by
/// a random step.
#[derive(Debug, Default)]
struct RisingUuids {
    millis: u64,
    random: u128,
}

impl RisingUuids {
    /// Random bits of an id: 12 after the version and 62 after the variant.
    const RANDOM_BITS: u32 = 74;
    /// Largest step back of the clock, in milliseconds, that ids ignore to keep rising. After a larger step ids follow
    /// the clock, because an id far ahead of the time of day is rejected.
    const MAX_STEP_BACK_MILLIS: u64 = 10_000;

    fn next(&mut self, at: Timestamp, bits: [u64; 2]) -> Uuid {
        let millis = u64::try_from(at.as_micros() / 1000).unwrap_or(0);
        // The highest bit stays zero, as room for the steps.
        let fresh = (u128::from(bits[0]) << 64 | u128::from(bits[1])) >> (128 - Self::RANDOM_BITS + 1);
        if millis > self.millis || millis + Self::MAX_STEP_BACK_MILLIS < self.millis {
            (self.millis, self.random) = (millis, fresh);
        } else {
            self.random += 1 + u128::from(bits[1] >> 32);
            if self.random >> Self::RANDOM_BITS > 0 {
                (self.millis, self.random) = (self.millis + 1, fresh);
            }
        }
        let (high, low) = (self.random >> 62, self.random & ((1 << 62) - 1));
        let id = u128::from(self.millis) << 80 | 7 << 76 | high << 64 | 0b10 << 62 | low;
        Uuid::from_u128(id)
    }
}

fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_micros(millis * 1000)
    }

    #[test]
    fn ids_of_one_millisecond_rise() {
        for ids in [&SystemIds::default() as &dyn IdGenerator, &SeededIds::new(7)] {
            let made: Vec<Uuid> = (0..100_000).map(|_| ids.uuid(at(1_767_225_600_000))).collect();
            assert!(made.windows(2).all(|pair| pair[0] < pair[1]));
            let last = made.last().unwrap();
            let (seconds, nanos) = last.get_timestamp().unwrap().to_unix();
            assert_eq!((last.get_version_num(), seconds, nanos), (7, 1_767_225_600, 0));
            assert_eq!(last.get_variant(), uuid::Variant::RFC4122);
        }
    }

    #[test]
    fn ids_rise_over_a_small_clock_correction_and_follow_a_large_one() {
        let ids = SystemIds::default();
        let (first, corrected) = (ids.uuid(at(50_000)), ids.uuid(at(49_000)));
        assert!(first < corrected);
        let set_back = ids.uuid(at(1000));
        assert_eq!(set_back.get_timestamp().unwrap().to_unix().0, 1);
    }

    #[test]
    fn threads_that_share_a_generator_get_distinct_ids() {
        let ids = SystemIds::default();
        let mut all = BTreeSet::new();
        std::thread::scope(|scope| {
            let make = || (0..1000).map(|_| ids.uuid(at(5))).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
            threads.into_iter().for_each(|thread| all.extend(thread.join().unwrap()));
        });
        assert_eq!(all.len(), 4000);
    }

    #[test]
    fn an_exhausted_millisecond_continues_in_the_next() {
        let mut rising = RisingUuids { millis: 9, random: (1 << RisingUuids::RANDOM_BITS) - 1 };
        let before =
            RisingUuids { millis: 9, random: (1 << RisingUuids::RANDOM_BITS) - 2 }.next(at(9), [0, 0]);
        let after = rising.next(at(9), [5, 5]);
        assert!(before < after && rising.millis == 10);
    }
}
