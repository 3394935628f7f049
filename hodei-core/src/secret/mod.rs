//! Secrets: values that the platform delivers only to the jobs that may have them.
//!
//! A spec holds references only. The platform reads the values from a [`SecretProvider`](crate::port::SecretProvider)
//! when it delivers a job, and sends them only to the agent.

mod machine;
mod name;
mod policy;
mod state;
mod value;

pub use machine::{SecretInput, step};
pub use name::{ParseSecretNameError, SecretInjection, SecretName, SecretRef};
pub use policy::{ParseSecretPatternError, SecretPattern, SecretPolicy, SecretRule};
pub use state::{Secret, secret_id};
pub use value::{SecretSize, SecretValue};
