//! Secrets: values that a job is given and that nobody else gets to see.
//!
//! A spec has references only. Values come from a [`SecretProvider`](crate::port::SecretProvider) when a job is
//! delivered, and go from there to the agent alone.

mod machine;
mod name;
mod policy;
mod value;

pub use machine::{Secret, SecretInput, secret_id, step};
pub use name::{ParseSecretNameError, SecretInjection, SecretName, SecretRef};
pub use policy::{ParseSecretPatternError, SecretPattern, SecretPolicy, SecretRule};
pub use value::{SecretSize, SecretValue};
