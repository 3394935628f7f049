//! Access control: callers, roles, the actions that they allow, and the tokens of clients.

mod caller;
mod refusal;
mod role;
mod token;

pub use caller::{Caller, Denied, Who};
pub use refusal::{RefusalReason, RefusedParty};
pub use role::{Action, ParseRoleError, Role};
pub use token::{AccessToken, TokenInput, TokenRefusal, TokenTerms, TokenView, step, token_id, token_text};
