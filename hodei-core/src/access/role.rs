//! Roles, and the actions that each allows.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The role of a caller. Each role allows everything that the roles before it allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads jobs, their output, the queue and the workers.
    Viewer,
    /// Submits, cancels and retries jobs.
    Submitter,
    /// Drains workers, and puts and deletes secrets.
    Operator,
    /// Makes and revokes tokens, also those of other tenants.
    Admin,
}

impl Role {
    /// Every role, the lowest first.
    pub const ALL: [Role; 4] = [Self::Viewer, Self::Submitter, Self::Operator, Self::Admin];

    /// Returns the name in texts and JSON.
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

/// The text is not a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: write viewer, submitter, operator or admin")]
pub struct ParseRoleError(String);

/// An action that not every role allows. Reading is not among them, apart from secret names and tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// List the names of the tenant's secrets.
    ListSecrets,
    /// Submit and retry jobs.
    SubmitJobs,
    /// Cancel jobs of the tenant.
    CancelJobs,
    /// Drain a worker.
    DrainWorkers,
    /// Put and delete secrets of the tenant.
    ChangeSecrets,
    /// Make, list and revoke tokens.
    ManageTokens,
}

impl Action {
    /// All actions.
    pub const ALL: [Action; 6] = [
        Self::ListSecrets,
        Self::SubmitJobs,
        Self::CancelJobs,
        Self::DrainWorkers,
        Self::ChangeSecrets,
        Self::ManageTokens,
    ];

    /// Returns the lowest role that allows the action.
    pub fn least(self) -> Role {
        match self {
            Self::ListSecrets | Self::SubmitJobs | Self::CancelJobs => Role::Submitter,
            Self::DrainWorkers | Self::ChangeSecrets => Role::Operator,
            Self::ManageTokens => Role::Admin,
        }
    }

    /// Returns the name in texts and JSON.
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
        assert!("root".parse::<Role>().unwrap_err().to_string().contains("`root` is not a role"));
    }
}
