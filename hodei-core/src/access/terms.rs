//! The terms of a token.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Role;
use crate::job::TenantId;

/// The name, tenant and role of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenTerms {
    /// Name for display.
    pub name: String,
    /// Tenant of its bearer.
    pub tenant: TenantId,
    /// Role of its bearer.
    pub role: Role,
}

impl TokenTerms {
    /// Maximum length of a name, in bytes.
    pub const NAME: usize = 128;
    /// Maximum life of a token that expires: ten years.
    pub const LIFE: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
}
