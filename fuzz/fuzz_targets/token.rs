//! Tokens, credentials and names of secrets: what is read is what was written, and nothing else is read.
#![no_main]

use hodei_core::access::{token_id, token_text};
use hodei_core::job::TenantId;
use hodei_core::secret::{SecretName, SecretRef};
use hodei_core::worker::{SecretHash, worker_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(id) = token_id(text) {
        let secret: SecretHash =
            text.rsplit('_').next().unwrap_or_default().parse().expect("it has a secret");
        assert_eq!(token_text(id, secret), text, "there is one text of a token");
    }
    if let Some(worker) = worker_of(text) {
        assert!(!worker.to_string().is_empty());
    }
    if let Ok(name) = text.parse::<SecretName>() {
        let path = std::path::Path::new("/secrets").join(name.as_str());
        assert_eq!(path.parent(), Some(std::path::Path::new("/secrets")), "it stays in its directory");
    }
    if let Ok(secret) = text.parse::<SecretRef>() {
        assert_eq!(secret.to_string().parse(), Ok(secret));
    }
    if let Ok(tenant) = text.parse::<TenantId>() {
        assert!(!tenant.as_str().contains('/'));
    }
});
