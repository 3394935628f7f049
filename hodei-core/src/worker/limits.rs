//! Whether a worker holds jobs to their limits: a label, so that it is stored, shown and asked for like the others.

use serde::{Deserialize, Serialize};

use crate::job::Labels;

/// Whether the kernel holds the jobs of a worker to their limits of memory, processors and processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitHold {
    /// Each job with limits has control groups.
    Held,
    /// No control group can be made there: limits only say what a worker must have.
    Unheld,
}

impl LimitHold {
    /// The label of workers and providers that says it; agents set it, whatever a configuration says.
    pub const LABEL: &str = "limits";

    /// What labels say; `None` where nothing does, as before an agent of an older version.
    pub fn of(labels: &Labels) -> Option<Self> {
        [Self::Held, Self::Unheld]
            .into_iter()
            .find(|hold| labels.get(Self::LABEL).is_some_and(|is| is == hold.as_str()))
    }

    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Unheld => "unheld",
        }
    }

    /// The label and its value.
    pub fn label(self) -> (String, String) {
        (Self::LABEL.to_owned(), self.as_str().to_owned())
    }
}

impl From<bool> for LimitHold {
    /// By whether control groups can be made.
    fn from(is_held: bool) -> Self {
        if is_held { Self::Held } else { Self::Unheld }
    }
}
