use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What somebody may do; each may do all that the one before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks at jobs, their output, the queue and the workers.
    Viewer,
    /// Submits, cancels and retries jobs.
    Submitter,
    /// Drains workers, and puts and deletes secrets.
    Operator,
    /// Makes tokens and takes them back, those of every tenant.
    Admin,
}

impl Role {
    /// Every role, from the one that may least.
    pub const ALL: [Role; 4] = [Self::Viewer, Self::Submitter, Self::Operator, Self::Admin];

    /// The name in texts and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, ParseRoleError> {
        let known = Self::ALL.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| ParseRoleError(text.chars().take(40).collect()))
    }
}

/// A text that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role: write viewer, submitter, operator or admin")]
pub struct ParseRoleError(String);

/// Something that a caller wants to do and not every caller may: looking is for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// See which secrets its tenant has.
    ListSecrets,
    /// Put jobs in, and repeat them.
    SubmitJobs,
    /// Cancel jobs of its tenant.
    CancelJobs,
    /// Have a worker leave.
    DrainWorkers,
    /// Put and delete secrets of its tenant.
    ChangeSecrets,
    /// Make tokens, see them, and take them back.
    ManageTokens,
}

impl Action {
    /// The role that may just do it.
    pub fn least(self) -> Role {
        match self {
            Self::ListSecrets | Self::SubmitJobs | Self::CancelJobs => Role::Submitter,
            Self::DrainWorkers | Self::ChangeSecrets => Role::Operator,
            Self::ManageTokens => Role::Admin,
        }
    }

    /// The name in texts and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ListSecrets => "list_secrets",
            Self::SubmitJobs => "submit_jobs",
            Self::CancelJobs => "cancel_jobs",
            Self::DrainWorkers => "drain_workers",
            Self::ChangeSecrets => "change_secrets",
            Self::ManageTokens => "manage_tokens",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_ordered_and_round_trip() {
        assert!(Role::ALL.is_sorted());
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().unwrap_err().to_string().contains("`root` is no role"));
    }
}
