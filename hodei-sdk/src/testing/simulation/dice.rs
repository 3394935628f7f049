//! Random decisions and random faults of a simulation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hodei_core::port::IdGenerator;

use crate::ids::SeededIds;
use crate::layer::chaos::{Fault, Faults};

/// Random decisions that depend only on the seed.
#[derive(Debug, Clone)]
pub(super) struct Dice(Arc<SeededIds>);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(SeededIds::new(seed)))
    }

    pub(super) fn below(&self, limit: u64) -> u64 {
        self.0.random() % limit.max(1)
    }

    pub(super) fn chance(&self, probability: f64) -> bool {
        self.0.fraction() < probability
    }

    pub(super) fn millis(&self, below: u64) -> Duration {
        Duration::from_millis(self.below(below))
    }
}

/// Random faults, until `calm` is set.
#[derive(Debug)]
pub(super) struct RandomFaults {
    pub(super) dice: Dice,
    pub(super) calm: Arc<AtomicBool>,
    /// Probability that a call has a fault.
    pub(super) rate: f64,
}

impl Faults for RandomFaults {
    fn next(&self, call: &'static str) -> Fault {
        // There are so many reads that at the full rate no operation would succeed.
        let rate = if call == "read" { self.rate / 4.0 } else { self.rate };
        if self.calm.load(Ordering::Relaxed) || !self.dice.chance(rate) {
            return Fault::None;
        }
        if call == "recent" {
            return Fault::Stale;
        }
        match self.dice.below(4) {
            0 => Fault::Slow(self.dice.millis(30)),
            1 => Fault::Fails,
            2 => Fault::SaysFailed,
            _ => Fault::Twice,
        }
    }
}
