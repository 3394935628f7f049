//! The caller of the API: its tenant, its role, and how it is authenticated.

use serde::{Deserialize, Serialize};

use super::{Action, Role};
use crate::id::TokenId;
use crate::job::TenantId;

/// The caller of a request, with its tenant and its role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Tenant of the caller: it sees only the jobs and secrets of this tenant.
    pub tenant: TenantId,
    /// Role of the caller.
    pub role: Role,
    /// How the caller is authenticated.
    pub who: Who,
}

/// How a caller is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// As the program that embeds the platform.
    Program,
    /// By the daemon's own token, which it read from its file.
    TokenFile,
    /// By a token for clients.
    Token(TokenId),
}

impl Default for Caller {
    /// The program that embeds the platform: an admin of the default tenant.
    fn default() -> Self {
        Self { tenant: TenantId::default(), role: Role::Admin, who: Who::Program }
    }
}

impl Caller {
    /// Checks whether the caller may perform an action.
    ///
    /// # Errors
    /// [`Denied`] when the role of the caller is too low.
    pub fn may(&self, action: Action) -> Result<(), Denied> {
        if self.role >= action.least() { Ok(()) } else { Err(Denied { action, role: self.role }) }
    }
}

/// The role of a caller does not allow an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the role {role} may not {}: use a token of the role {}", action.as_str().replace('_', " "), action.least())]
pub struct Denied {
    /// The refused action.
    pub action: Action,
    /// Role of the caller.
    pub role: Role,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_allows_its_own_actions_and_those_of_lower_roles() {
        let viewer = Caller { role: Role::Viewer, ..Caller::default() };
        let denied = viewer.may(Action::SubmitJobs).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "the role viewer may not submit jobs: use a token of the role submitter"
        );
        assert_eq!(Caller::default().may(Action::ManageTokens), Ok(()));
    }
}
