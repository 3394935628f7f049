//! TLS of the server: certificate files, their reload, and handshakes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::accept::Accepting;
use super::admission::Guarded;
use crate::task::Tasks;

/// The certificate of a server. Each new connection checks whether the files have changed, so a rotated certificate is
/// used from the next connection on. Open connections are not affected.
#[derive(Debug, Clone)]
pub struct ServerTls {
    files: Arc<Files>,
    current: Arc<Mutex<(Stamp, Arc<ServerConfig>)>>,
}

#[derive(Debug)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// Times of change of the certificate, the key and the CA file.
type Stamp = [Option<SystemTime>; 3];

/// Maximum number of connections between their TLS handshake and the server.
const MAX_ACCEPTED: usize = 64;

impl ServerTls {
    /// Reads a certificate chain and its key, both in PEM. With `client_ca`, clients also need a certificate that one
    /// of its CAs has signed; the token is checked after that.
    ///
    /// # Errors
    /// If a file cannot be read or used; the error names it and the problem.
    pub fn open(
        cert: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        client_ca: Option<PathBuf>,
    ) -> io::Result<Self> {
        let files = Files { cert: cert.into(), key: key.into(), client_ca };
        let current = (files.stamp(), Arc::new(files.load()?));
        Ok(Self { files: Arc::new(files), current: Arc::new(Mutex::new(current)) })
    }

    /// Returns the configuration of the current files, or the last valid one if they cannot be used.
    fn config(&self) -> Arc<ServerConfig> {
        let stamp = self.files.stamp();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp != current.0 {
            match self.files.load() {
                Ok(config) => *current = (stamp, Arc::new(config)),
                Err(error) => {
                    tracing::error!(%error, "the new certificate cannot be used: the server keeps the old one");
                    // Logs once for each change.
                    current.0 = stamp;
                }
            }
        }
        current.1.clone()
    }

    /// Accepts connections and returns them after their TLS handshakes, which run concurrently.
    pub(super) fn accept(
        self,
        mut accepting: Accepting<TcpListener>,
        tasks: &Tasks,
    ) -> mpsc::Receiver<io::Result<TlsStream<Guarded<TcpStream>>>> {
        let (accepted, incoming) = mpsc::channel(MAX_ACCEPTED);
        let handshakes = tasks.clone();
        tasks.spawn("tls listener", async move {
            loop {
                let stream = tokio::select! {
                    biased;
                    () = accepted.closed() => return,
                    stream = accepting.next() => stream,
                };
                let (acceptor, accepted) = (TlsAcceptor::from(self.config()), accepted.clone());
                // The admission limits their number and duration.
                handshakes.spawn("tls handshake", async move {
                    match acceptor.accept(stream).await {
                        Ok(stream) => drop(accepted.send(Ok(stream)).await),
                        Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
                    }
                });
            }
        });
        incoming
    }
}

impl Files {
    fn stamp(&self) -> Stamp {
        let changed = |path: &Path| std::fs::metadata(path).and_then(|about| about.modified()).ok();
        [changed(&self.cert), changed(&self.key), self.client_ca.as_deref().and_then(changed)]
    }

    fn load(&self) -> io::Result<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for cert in certs(path)? {
                    roots.add(cert).map_err(|error| wrong(path, &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong(path, &error))?)
            }
        };
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| wrong(&self.key, &error))?;
        let config = builder.with_single_cert(certs(&self.cert)?, key);
        let mut config = config.map_err(|error| wrong(&self.cert, &error))?;
        config.alpn_protocols.push(b"h2".to_vec());
        Ok(config)
    }
}

fn certs(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(path, &error))?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(path, &error))?;
    if found.is_empty() {
        return Err(wrong(path, &"it contains no certificate"));
    }
    Ok(found)
}

fn wrong(path: &Path, why: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{} cannot be used for TLS: {why}", path.display()))
}
