//! The label that says whether a worker enforces the limits of jobs. As a label it is stored, shown and matched by
//! constraints like any other.

use serde::{Deserialize, Serialize};

use crate::job::Labels;

/// Whether the kernel enforces the limits of memory, processors and processes of a worker's jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitHold {
    /// Each job with limits has control groups.
    Held,
    /// The worker cannot make control groups: limits only select workers with enough resources.
    Unheld,
}

impl LimitHold {
    /// Key of the label of workers and providers. Agents set it, and override the configuration.
    pub const LABEL: &str = "limits";

    /// Reads the label; `None` where it is missing, as from an agent of an older version.
    pub fn of(labels: &Labels) -> Option<Self> {
        [Self::Held, Self::Unheld]
            .into_iter()
            .find(|hold| labels.get(Self::LABEL).is_some_and(|is| is == hold.as_str()))
    }

    /// Returns the value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Unheld => "unheld",
        }
    }

    /// Returns the key and the value of the label.
    pub fn label(self) -> (String, String) {
        (Self::LABEL.to_owned(), self.as_str().to_owned())
    }
}

impl From<bool> for LimitHold {
    /// `Held` when control groups can be made.
    fn from(is_held: bool) -> Self {
        if is_held { Self::Held } else { Self::Unheld }
    }
}
