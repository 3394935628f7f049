//! The key file that seals secrets.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{Key, KeyInit, XChaCha20Poly1305, XNonce};
use hodei_core::job::TenantId;
use hodei_core::secret::{SecretName, SecretValue};
use zeroize::Zeroizing;

use crate::error::OpenError;

/// The file of the keys that seal secrets, one key of 64 hexadecimal digits per line. The first key seals and every key
/// opens, so a new key goes above the old ones. The file is read on each use, and created when the first secret is put.
#[derive(Debug, Clone)]
pub struct SecretKeys {
    path: PathBuf,
}

/// The keys of a file.
pub(super) struct Ring {
    keys: Vec<Zeroizing<[u8; KEY_BYTES]>>,
}

/// Size of a key.
const KEY_BYTES: usize = 32;
/// Size of a nonce: large enough that random nonces never collide.
const NONCE_BYTES: usize = 24;
/// Prefix of each sealed text, authenticated with it: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03).
const FORMAT_PREFIX: &str = "x1:";
/// Maximum number of bytes read from a key file.
const MAX_FILE_BYTES: u64 = 64 << 10;

impl SecretKeys {
    /// Creates keys in this file, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Checks the file if it exists.
    ///
    /// # Errors
    /// [`OpenError`] when other users may read it, or it has no valid keys.
    pub fn check(&self) -> Result<(), OpenError> {
        self.ring().map(drop)
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the keys; `None` when there is no file.
    pub(super) fn ring(&self) -> Result<Option<Ring>, OpenError> {
        let text = match read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| OpenError::File { path: self.path.clone(), source })?,
        };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Option<Vec<_>> = lines.map(key).collect();
        match keys {
            Some(keys) if !keys.is_empty() => Ok(Some(Ring { keys })),
            _ => Err(OpenError::NotKeys { path: self.path.clone() }),
        }
    }

    /// Reads the keys; creates the file when there is none.
    pub(super) fn ring_or_new(&self) -> Result<Ring, OpenError> {
        if let Some(ring) = self.ring()? {
            return Ok(ring);
        }
        let failed = |source| OpenError::File { path: self.path.clone(), source };
        make(&self.path).map_err(failed)?;
        self.ring()?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }
}

impl Ring {
    /// Seals the value of a secret. The result opens only under the same tenant and name.
    pub(super) fn seal(
        &self,
        tenant: &TenantId,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<String, &'static str> {
        let mut sealed = vec![0; NONCE_BYTES];
        getrandom::fill(&mut sealed).map_err(|_| "the system provides no random bytes")?;
        let nonce = XNonce::try_from(&sealed[..]).map_err(|_| "the nonce has the wrong size")?;
        let first = self.keys.first().ok_or("the key file has no key")?;
        let aad = context(tenant, name);
        let payload = Payload { msg: value.expose(), aad: aad.as_bytes() };
        let text = cipher(first).encrypt(&nonce, payload).map_err(|_| "encryption failed")?;
        sealed.extend(text);
        Ok(format!("{FORMAT_PREFIX}{}", STANDARD.encode(sealed)))
    }

    /// Opens a sealed value; `None` when none of the keys opens it.
    pub(super) fn open_sealed(
        &self,
        tenant: &TenantId,
        name: &SecretName,
        sealed: &str,
    ) -> Option<SecretValue> {
        let sealed = STANDARD.decode(sealed.strip_prefix(FORMAT_PREFIX)?).ok()?;
        let (nonce, text) = sealed.split_at_checked(NONCE_BYTES)?;
        let nonce = XNonce::try_from(nonce).ok()?;
        let aad = context(tenant, name);
        let open = |key| cipher(key).decrypt(&nonce, Payload { msg: text, aad: aad.as_bytes() }).ok();
        SecretValue::new(self.keys.iter().find_map(open)?).ok()
    }
}

fn cipher(key: &Zeroizing<[u8; KEY_BYTES]>) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&Key::from(**key))
}

fn context(tenant: &TenantId, name: &SecretName) -> String {
    format!("{FORMAT_PREFIX}{}\0{name}", tenant.as_str())
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let file = File::open(path)?;
    let mode = file.metadata()?.mode();
    if mode & 0o077 != 0 {
        let why = format!("other users may read it: run `chmod 600 {}`", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Creates the file; when two processes do so at once, the first one's file stays.
fn make(path: &Path) -> io::Result<()> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *bytes).map_err(io::Error::other)?;
    let mut text = Zeroizing::new(String::with_capacity(2 * KEY_BYTES + 1));
    for byte in bytes.iter() {
        use std::fmt::Write;
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    // Link it only when complete: a truncated key would never open the secrets that it sealed.
    let mut name = [0; 8];
    getrandom::fill(&mut name).map_err(io::Error::other)?;
    let beside = path.with_extension(format!("new.{:016x}", u64::from_le_bytes(name)));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    let made = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let made = made.and_then(|()| match std::fs::hard_link(&beside, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    std::fs::remove_file(&beside)?;
    made?;
    // Sync before the first use: a sealed secret must not outlive its key.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

fn key(line: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    if line.len() != 2 * KEY_BYTES || !line.is_ascii() {
        return None;
    }
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    for (byte, at) in key.iter_mut().zip((0..2 * KEY_BYTES).step_by(2)) {
        *byte = u8::from_str_radix(line.get(at..at + 2)?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn value(text: &str) -> SecretValue {
        SecretValue::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn rotated_keys_open_old_secrets_and_a_sealed_value_opens_only_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.key");
        let (tenant, name, other) = (TenantId::default(), "db".parse().unwrap(), "web".parse().unwrap());
        let file = SecretKeys::new(&path);
        assert!(file.ring().unwrap().is_none() && file.check().is_ok() && !path.exists());
        let keys = file.ring_or_new().unwrap();
        let sealed = keys.seal(&tenant, &name, &value("hunter22")).unwrap();
        assert!(
            sealed != keys.seal(&tenant, &name, &value("hunter22")).unwrap(),
            "each sealing has its own nonce"
        );
        let again = file.ring_or_new().unwrap();
        assert_eq!(again.open_sealed(&tenant, &name, &sealed), Some(value("hunter22")));
        assert_eq!(again.open_sealed(&tenant, &other, &sealed), None, "another name opened it");
        assert_eq!(again.open_sealed(&TenantId::new("x"), &name, &sealed), None, "another tenant opened it");
        assert_eq!(again.open_sealed(&tenant, &name, &sealed[..sealed.len() - 8]), None);
        let old = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("# the new one\n{}\n{old}", "ab".repeat(32))).unwrap();
        let rotated = file.ring().unwrap().unwrap();
        assert_eq!(rotated.open_sealed(&tenant, &name, &sealed), Some(value("hunter22")));
        let resealed = rotated.seal(&tenant, &name, &value("hunter22")).unwrap();
        assert_eq!(again.open_sealed(&tenant, &name, &resealed), None, "the first key did not seal it");
    }

    #[test]
    fn concurrent_creators_share_one_key_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = SecretKeys::new(dir.path().join("secrets.key"));
        let (tenant, name) = (TenantId::default(), "db".parse().unwrap());
        let seal = || file.ring_or_new().unwrap().seal(&tenant, &name, &value("hunter22")).unwrap();
        let sealed: Vec<String> = std::thread::scope(|scope| {
            let many: Vec<_> = (0..16).map(|_| scope.spawn(seal)).collect();
            many.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let ring = file.ring().unwrap().unwrap();
        assert!(sealed.iter().all(|sealed| ring.open_sealed(&tenant, &name, sealed).is_some()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file remains");
    }

    #[test]
    fn a_key_file_that_is_readable_by_others_or_empty_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.key");
        let file = SecretKeys::new(&path);
        file.ring_or_new().unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(file.check().unwrap_err().to_string().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "# none\n", "abc\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(file.check(), Err(OpenError::NotKeys { .. })), "{text:?}");
        }
    }
}
