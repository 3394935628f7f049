//! Access control: tokens of clients, the caller behind a token, and refusals. Roles and actions are in
//! `hodei_core::access`.

#[cfg(feature = "grpc")]
pub(crate) mod authentication;
pub(crate) mod authorizer;
pub(crate) mod tokens;
