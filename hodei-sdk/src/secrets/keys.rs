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

/// The file of the keys that seal secrets: a line each, 64 hexadecimal digits. The first seals, all of them open, so that
/// a new key is put on top of the old ones. It is read anew each time, and made when the first secret is put.
#[derive(Debug, Clone)]
pub struct SecretKeys {
    path: PathBuf,
}

/// The keys of a file.
pub(super) struct Ring {
    keys: Vec<Zeroizing<[u8; KEY]>>,
}

/// Bytes of a key.
const KEY: usize = 32;
/// Bytes of a nonce: so many that one drawn by chance never comes twice.
const NONCE: usize = 24;
/// Begins each sealed text, and is sealed with it: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03).
const FORM: &str = "x1:";
/// Bytes of a file of keys that are read.
const FILE: u64 = 64 << 10;

impl SecretKeys {
    /// The keys of this file, which need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Looks at a file that is there.
    ///
    /// # Errors
    /// [`OpenError`] when others may read it, or it has no keys.
    pub fn check(&self) -> Result<(), OpenError> {
        self.ring().map(drop)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys; none where there is no file.
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

    /// The keys; of a new file where there is none.
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
    /// Seals the value of a secret, for this secret alone: nobody can give it to another.
    pub(super) fn seal(
        &self,
        tenant: &TenantId,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<String, &'static str> {
        let mut sealed = vec![0; NONCE];
        getrandom::fill(&mut sealed).map_err(|_| "the system gives no random numbers")?;
        let nonce = XNonce::try_from(&sealed[..]).map_err(|_| "a nonce has another size")?;
        let first = self.keys.first().ok_or("there is no key")?;
        let aad = context(tenant, name);
        let payload = Payload { msg: value.expose(), aad: aad.as_bytes() };
        let text = cipher(first).encrypt(&nonce, payload).map_err(|_| "it cannot be sealed")?;
        sealed.extend(text);
        Ok(format!("{FORM}{}", STANDARD.encode(sealed)))
    }

    /// Opens what was sealed; `None` when no key here does.
    pub(super) fn open_sealed(
        &self,
        tenant: &TenantId,
        name: &SecretName,
        sealed: &str,
    ) -> Option<SecretValue> {
        let sealed = STANDARD.decode(sealed.strip_prefix(FORM)?).ok()?;
        let (nonce, text) = sealed.split_at_checked(NONCE)?;
        let nonce = XNonce::try_from(nonce).ok()?;
        let aad = context(tenant, name);
        let open = |key| cipher(key).decrypt(&nonce, Payload { msg: text, aad: aad.as_bytes() }).ok();
        SecretValue::new(self.keys.iter().find_map(open)?).ok()
    }
}

fn cipher(key: &Zeroizing<[u8; KEY]>) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&Key::from(**key))
}

fn context(tenant: &TenantId, name: &SecretName) -> String {
    format!("{FORM}{}\0{name}", tenant.as_str())
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let file = File::open(path)?;
    let mode = file.metadata()?.mode();
    if mode & 0o077 != 0 {
        let why = format!("others may read it: `chmod 600 {}`", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// Of two that make it at once, the first one's stays.
fn make(path: &Path) -> io::Result<()> {
    let mut bytes = Zeroizing::new([0; KEY]);
    getrandom::fill(&mut *bytes).map_err(io::Error::other)?;
    let mut text = Zeroizing::new(String::with_capacity(2 * KEY + 1));
    for byte in bytes.iter() {
        use std::fmt::Write;
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    // Whole or not at all: one that was cut off would never open what the next one sealed.
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
    // Before anything is sealed with it: what is sealed must not outlive its key.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

fn key(line: &str) -> Option<Zeroizing<[u8; KEY]>> {
    if line.len() != 2 * KEY || !line.is_ascii() {
        return None;
    }
    let mut key = Zeroizing::new([0; KEY]);
    for (byte, at) in key.iter_mut().zip((0..2 * KEY).step_by(2)) {
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
    fn what_one_key_sealed_the_next_file_opens_and_no_other_secret_is_given_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.key");
        let (tenant, name, other) = (TenantId::default(), "db".parse().unwrap(), "web".parse().unwrap());
        let file = SecretKeys::new(&path);
        assert!(file.ring().unwrap().is_none() && file.check().is_ok() && !path.exists());
        let keys = file.ring_or_new().unwrap();
        let sealed = keys.seal(&tenant, &name, &value("hunter22")).unwrap();
        assert!(sealed != keys.seal(&tenant, &name, &value("hunter22")).unwrap(), "each time another");
        let again = file.ring_or_new().unwrap();
        assert_eq!(again.open_sealed(&tenant, &name, &sealed), Some(value("hunter22")));
        assert_eq!(again.open_sealed(&tenant, &other, &sealed), None, "it was moved to another name");
        assert_eq!(again.open_sealed(&TenantId::new("x"), &name, &sealed), None, "or another tenant");
        assert_eq!(again.open_sealed(&tenant, &name, &sealed[..sealed.len() - 8]), None);
        let old = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("# the new one\n{}\n{old}", "ab".repeat(32))).unwrap();
        let rotated = file.ring().unwrap().unwrap();
        assert_eq!(rotated.open_sealed(&tenant, &name, &sealed), Some(value("hunter22")));
        let resealed = rotated.seal(&tenant, &name, &value("hunter22")).unwrap();
        assert_eq!(again.open_sealed(&tenant, &name, &resealed), None, "it is sealed with the first");
    }

    #[test]
    fn of_many_that_make_it_at_once_all_have_the_same() {
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
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_others_read_or_that_has_no_keys_is_refused() {
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
