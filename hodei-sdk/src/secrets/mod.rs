//! Providers of secret values.

mod directory;
mod encrypted;
mod keys;
mod memory;

pub use directory::DirectorySecrets;
pub use encrypted::EncryptedSecrets;
pub use keys::SecretKeys;
pub use memory::MemorySecrets;
