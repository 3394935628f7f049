//! TLS of agents and clients, which call a server.

use std::io;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity, Uri};

/// The PEM files of a caller. An agent reads them again for each connection, so that a rotation needs no restart; a
/// client reads them when it is created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities that sign servers; `None` means those that this machine trusts.
    pub ca: Option<PathBuf>,
    /// The caller's own certificate, where servers require one.
    pub cert: Option<PathBuf>,
    /// The private key of the caller's certificate.
    pub key: Option<PathBuf>,
}

/// The first line of a certificate in PEM (RFC 7468).
const PEM_CERTIFICATE_BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

impl TlsFiles {
    /// Reads the files and makes the TLS configuration.
    ///
    /// # Errors
    /// A file cannot be read or has no certificate, or one of certificate and key is not set. The error names the file.
    pub fn config(&self) -> io::Result<ClientTlsConfig> {
        let config = match &self.ca {
            Some(ca) => {
                let pem = read(ca)?;
                if !pem.windows(PEM_CERTIFICATE_BEGIN.len()).any(|text| text == PEM_CERTIFICATE_BEGIN) {
                    return Err(io::Error::other(format!(
                        "{} has no certificate in PEM: name the file of the certificate authority",
                        ca.display()
                    )));
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

/// Whether a URL leads to this machine: to a unix socket or a loopback address.
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
    fn a_url_is_near_by_the_host_that_a_connection_goes_to() {
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
