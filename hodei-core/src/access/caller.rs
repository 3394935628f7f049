use serde::{Deserialize, Serialize};

use super::{Action, Role};
use crate::id::TokenId;
use crate::job::TenantId;

/// Somebody who wants something: whose jobs it is about, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose jobs and secrets: of no other does the caller see anything.
    pub tenant: TenantId,
    /// What it may do.
    pub role: Role,
    /// How it is known.
    pub who: Who,
}

/// How a caller is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The program that has the platform in it.
    Program,
    /// It has the file with the daemon's own token.
    TokenFile,
    /// By a token that was made for it.
    Token(TokenId),
}

impl Default for Caller {
    /// The program that has the platform in it: it may do everything, as the tenant of a platform that has one.
    fn default() -> Self {
        Self { tenant: TenantId::default(), role: Role::Admin, who: Who::Program }
    }
}

impl Caller {
    /// Whether it may do something.
    ///
    /// # Errors
    /// [`Denied`] when its role is too low.
    pub fn may(&self, action: Action) -> Result<(), Denied> {
        if self.role >= action.least() { Ok(()) } else { Err(Denied { action, role: self.role }) }
    }
}

/// Somebody may not do what it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the role {role} may not {}: it takes the role {}", action.as_str().replace('_', " "), action.least())]
pub struct Denied {
    /// What it wants.
    pub action: Action,
    /// What it is.
    pub role: Role,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_may_what_is_its_own_and_what_is_of_lower_ones() {
        let viewer = Caller { role: Role::Viewer, ..Caller::default() };
        let denied = viewer.may(Action::SubmitJobs).unwrap_err();
        assert_eq!(denied.to_string(), "the role viewer may not submit jobs: it takes the role submitter");
        assert_eq!(Caller::default().may(Action::ManageTokens), Ok(()));
    }
}
