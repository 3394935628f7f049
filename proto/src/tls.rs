//! TLS of whoever calls: an agent or a client.

use std::io;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity, Uri};

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

/// Begins a certificate in PEM (RFC 7468).
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

impl TlsFiles {
    /// What these files say now.
    ///
    /// # Errors
    /// Names a file that cannot be read or has no certificate, or the one of certificate and key that is missing.
    pub fn config(&self) -> io::Result<ClientTlsConfig> {
        let config = match &self.ca {
            Some(ca) => {
                let pem = read(ca)?;
                if !pem.windows(BEGIN.len()).any(|text| text == BEGIN) {
                    return Err(io::Error::other(format!("{} has no certificate in PEM", ca.display())));
                }
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
            }
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

/// Whether a URL leads to this machine: to a socket in its file system, or a loopback address.
pub fn is_near(url: &str) -> bool {
    if url.starts_with("unix:") {
        return true;
    }
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_where_a_connection_really_goes() {
        for url in [
            "unix:/run/h",
            "http://127.0.0.1:7443",
            "https://localhost:1",
            "http://[::1]:7",
            "http://127.9.9.9",
        ] {
            assert!(is_near(url), "{url}");
        }
        for url in [
            "http://10.0.0.1:7443",
            "http://localhost.evil.example:1",
            "http://127.0.0.1:x@evil.example",
            "http://localhost@evil.example:1",
            "http://[2001:db8::1]:7",
            "http://x",
            "no url",
        ] {
            assert!(!is_near(url), "{url}");
        }
    }
}
