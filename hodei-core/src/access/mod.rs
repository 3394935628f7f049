//! Access control: callers, roles, the actions that they allow, and the tokens of clients.

mod caller;
mod machine;
mod refusal;
mod role;
mod terms;
mod token;

pub use caller::{Caller, Denied, Who};
pub use machine::{TokenInput, step};
pub use refusal::{RefusalReason, RefusedParty};
pub use role::{Action, ParseRoleError, Role};
pub use terms::TokenTerms;
pub use token::{AccessToken, TokenRefusal, TokenView, token_id, token_text};
