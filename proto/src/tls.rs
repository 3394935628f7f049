//! TLS of whoever calls: an agent or a client.

use std::io;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// The files that a caller goes by, in PEM. An agent reads them anew for each connection, so what is rotated needs no
/// restart; a client when it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who signs the certificates of servers; without it those that this machine trusts.
    pub ca: Option<PathBuf>,
    /// The caller's own certificate, where servers want to see one.
    pub cert: Option<PathBuf>,
    /// The key of that.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// What these files say now.
    ///
    /// # Errors
    /// Names a file that cannot be read, or the one of certificate and key that is missing.
    pub fn config(&self) -> io::Result<ClientTlsConfig> {
        let config = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Ok(config.identity(Identity::from_pem(read(cert)?, read(key)?))),
            (None, None) => Ok(config),
            _ => Err(io::Error::other(
                "a certificate needs its key, and a key its certificate: name both files",
            )),
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
