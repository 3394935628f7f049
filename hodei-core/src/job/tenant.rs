//! The name of a tenant.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name;

/// The name of the tenant that owns a job. It comes from the caller of the submit, never from the spec.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Maximum length of a name, in bytes.
    pub const LONGEST: usize = 64;

    /// Makes a tenant from any name; [`FromStr`](std::str::FromStr) accepts only names that users may give.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for TenantId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for TenantId {
    type Err = ParseTenantError;

    fn from_str(text: &str) -> Result<Self, ParseTenantError> {
        if name::is_plain(text, Self::LONGEST) {
            Ok(Self::new(text))
        } else {
            Err(ParseTenantError(text.chars().take(40).collect()))
        }
    }
}

/// The text is not a valid name of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a valid name of a tenant: use 1 to 64 letters, digits, `_`, `-` or `.`, and do not begin with a dot"
)]
pub struct ParseTenantError(String);

impl Default for TenantId {
    /// The tenant of a platform with a single tenant: `default`.
    fn default() -> Self {
        Self::new("default")
    }
}
