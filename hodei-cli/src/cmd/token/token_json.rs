//! The JSON form of a token.

use hodei_sdk::access::TokenView;
use serde_json::{Value, json};

/// Returns the stable JSON of a token.
pub(super) fn token_json(token: &TokenView) -> Value {
    json!({
        "id": token.id.to_string(),
        "name": token.terms.name,
        "tenant": token.terms.tenant.as_str(),
        "role": token.terms.role.as_str(),
        "created_at": token.created_at.to_string(),
        "expires_at": token.expires_at.map(|at| at.to_string()),
        "revoked_at": token.revoked_at.map(|at| at.to_string()),
    })
}
