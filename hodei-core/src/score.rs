//! The score of an assignment.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The score of a worker for a job at the time of the assignment, by strategy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Score {
    /// Name and weighted score of each strategy.
    pub parts: Vec<(Cow<'static, str>, f64)>,
}

impl Score {
    /// Returns the sum over all strategies.
    pub fn total(&self) -> f64 {
        self.parts.iter().map(|(_, part)| part).sum()
    }
}
