//! Secrets in files of a directory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use hodei_core::job::TenantId;
use hodei_core::port::{SecretError, SecretInfo, SecretProvider};
use hodei_core::secret::{SecretName, SecretValue};
use hodei_core::time::Timestamp;
use tokio::sync::Semaphore;

use crate::task::blocking;

/// Secrets in files that another program writes: `DIRECTORY/TENANT/NAME` holds the value as it is. Kubernetes mounts
/// and systemd credentials have this form. Files are read on each use, so a change needs no restart.
#[derive(Debug, Clone)]
pub struct DirectorySecrets {
    dir: PathBuf,
    /// Limits concurrent reads: a read of a hanging directory continues after its caller is gone.
    turns: Arc<Semaphore>,
}

/// Maximum number of concurrent reads.
const MAX_CONCURRENT_READS: usize = 4;

impl DirectorySecrets {
    /// Creates a provider for the secrets below a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), turns: Arc::new(Semaphore::new(MAX_CONCURRENT_READS)) }
    }

    /// Returns the directory of a tenant; `None` when the tenant's name is not a valid file name.
    fn of(&self, tenant: &TenantId) -> Option<PathBuf> {
        let name: SecretName = tenant.as_str().parse().ok()?;
        Some(self.dir.join(name.as_str()))
    }

    async fn in_turn<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> T {
        let turn = self.turns.clone().acquire_owned().await;
        blocking(move || {
            let _turn = turn;
            read()
        })
        .await
    }
}

fn read(dir: &Path, name: &SecretName) -> Result<Option<SecretValue>, SecretError> {
    let unreadable = |why: String| SecretError::Unreadable { name: name.clone(), why };
    let file = match File::open(dir.join(name.as_str())) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    // Allocate the full capacity: a growing buffer leaves copies of the secret in memory.
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(SecretValue::LONGEST + 1));
    let limited = file.take(SecretValue::LONGEST as u64 + 1).read_to_end(&mut bytes);
    limited.map_err(|error| unreadable(error.to_string()))?;
    SecretValue::new(bytes.to_vec()).map(Some).map_err(|error| unreadable(error.to_string()))
}

fn list(dir: &Path) -> io::Result<Vec<SecretInfo>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut listed = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let (Some(name), Ok(about)) = (name, std::fs::metadata(&path)) else { continue };
        if about.is_file() {
            let age = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            listed.push(SecretInfo { name, changed_at: Timestamp::EPOCH + age });
        }
    }
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listed)
}

#[async_trait]
impl SecretProvider for DirectorySecrets {
    async fn secrets(
        &self,
        tenant: &TenantId,
        names: &[SecretName],
    ) -> Result<Vec<Option<SecretValue>>, SecretError> {
        let Some(dir) = self.of(tenant) else { return Ok(vec![None; names.len()]) };
        let names = names.to_vec();
        self.in_turn(move || names.iter().map(|name| read(&dir, name)).collect()).await
    }

    async fn list(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, SecretError> {
        let Some(dir) = self.of(tenant) else { return Ok(Vec::new()) };
        let failed = |error: io::Error| SecretError::Unavailable(error.to_string());
        self.in_turn(move || list(&dir).map_err(failed)).await
    }

    async fn put(&self, _: &TenantId, _: &SecretName, _: SecretValue) -> Result<(), SecretError> {
        Err(self.read_only())
    }

    async fn delete(&self, _: &TenantId, _: &SecretName) -> Result<bool, SecretError> {
        Err(self.read_only())
    }
}

impl DirectorySecrets {
    fn read_only(&self) -> SecretError {
        SecretError::ReadOnly(format!("write them as files below {}", self.dir.display()))
    }
}
