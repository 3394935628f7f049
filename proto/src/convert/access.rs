//! Tokens and roles: messages to domain and back.

use std::fmt;
use std::time::Duration;

use hodei_core::access::{Role, TokenTerms, TokenView};
use hodei_core::job::TenantId;

use super::{
    ConvertError, duration_from_wire, duration_to_wire, parse, parse_some, time_from_wire, time_to_wire,
};
use crate::v1;

const ROLES: [(Role, v1::Role); 4] = [
    (Role::Viewer, v1::Role::Viewer),
    (Role::Submitter, v1::Role::Submitter),
    (Role::Operator, v1::Role::Operator),
    (Role::Admin, v1::Role::Admin),
];

fn role_to_wire(role: Role) -> i32 {
    ROLES.iter().find(|(known, _)| *known == role).map_or(0, |(_, wire)| (*wire).into())
}

fn role_from_wire(role: i32) -> Result<Role, ConvertError> {
    let known = ROLES.iter().find(|(_, wire)| i32::from(*wire) == role);
    known.map(|(role, _)| *role).ok_or(ConvertError::Malformed("role"))
}

/// Returns the request for a token with these terms, valid for `life`.
pub fn terms_to_wire(terms: &TokenTerms, life: Option<Duration>) -> v1::CreateTokenRequest {
    v1::CreateTokenRequest {
        name: terms.name.clone(),
        tenant: terms.tenant.to_string(),
        role: role_to_wire(terms.role),
        life: life.map(duration_to_wire),
    }
}

/// Reads the terms and the life of the token that a request asks for; without a tenant it is for the tenant `own`.
///
/// # Errors
/// [`ConvertError`] names the first field that is malformed.
pub fn terms_from_wire(
    message: v1::CreateTokenRequest,
    own: &TenantId,
) -> Result<(TokenTerms, Option<Duration>), ConvertError> {
    let tenant = parse_some("tenant", &message.tenant)?.unwrap_or_else(|| own.clone());
    let life = message.life.as_ref().map(|life| duration_from_wire("life", life)).transpose()?;
    Ok((TokenTerms { name: message.name, tenant, role: role_from_wire(message.role)? }, life))
}

/// Returns the wire form of a token.
pub fn token_to_wire(token: &TokenView) -> v1::Token {
    v1::Token {
        id: token.id.to_string(),
        name: token.terms.name.clone(),
        tenant: token.terms.tenant.to_string(),
        role: role_to_wire(token.terms.role),
        created_at: Some(time_to_wire(token.created_at)),
        expires_at: token.expires_at.map(time_to_wire),
        revoked_at: token.revoked_at.map(time_to_wire),
    }
}

/// Reads the token of a message.
///
/// # Errors
/// [`ConvertError`] names the first field that is missing or malformed.
pub fn token_from_wire(message: v1::Token) -> Result<TokenView, ConvertError> {
    let (name, tenant) = (message.name, TenantId::new(&message.tenant));
    Ok(TokenView {
        id: parse("id", &message.id)?,
        terms: TokenTerms { name, tenant, role: role_from_wire(message.role)? },
        created_at: message
            .created_at
            .as_ref()
            .map(time_from_wire)
            .ok_or(ConvertError::Missing("created_at"))?,
        expires_at: message.expires_at.as_ref().map(time_from_wire),
        revoked_at: message.revoked_at.as_ref().map(time_from_wire),
    })
}

impl fmt::Debug for v1::CreateTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateTokenResponse").field("token", &self.token).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use hodei_core::id::TokenId;
    use hodei_core::time::Timestamp;

    use super::*;

    #[test]
    fn a_token_round_trips_and_debug_does_not_show_its_text() {
        for role in Role::ALL {
            let terms = TokenTerms { name: "ci".into(), tenant: TenantId::new("team"), role };
            let view = TokenView {
                id: TokenId::from_uuid(uuid::Uuid::from_u128(4)),
                terms: terms.clone(),
                created_at: Timestamp::from_micros(7),
                expires_at: Some(Timestamp::from_micros(8)),
                revoked_at: None,
            };
            assert_eq!(token_from_wire(token_to_wire(&view)).unwrap(), view);
            let life = Some(Duration::from_secs(9));
            let own = TenantId::default();
            assert_eq!(terms_from_wire(terms_to_wire(&terms, life), &own).unwrap(), (terms, life));
        }
        let own =
            terms_from_wire(v1::CreateTokenRequest { role: 1, ..Default::default() }, &TenantId::new("me"));
        assert_eq!(own.unwrap().0.tenant, TenantId::new("me"));
        assert!(terms_from_wire(v1::CreateTokenRequest::default(), &TenantId::default()).is_err());
        let made = v1::CreateTokenResponse { token: None, text: "hodei_secret".into() };
        assert!(!format!("{made:?}").contains("secret"));
    }
}
