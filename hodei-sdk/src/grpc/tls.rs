//! TLS of the server.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hodei_core::port::{Clock, ClockExt};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::accept::Accepting;
use crate::clock::SystemClock;
use crate::task::Tasks;

/// The certificate of a server. Its files are looked at with each connection that comes: what is rotated serves the next
/// one, and those that are there go on.
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

/// When the files were changed.
type Stamp = [Option<SystemTime>; 3];

/// A client shakes hands within this.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A client that takes longer makes room for others.
const SLOW: Duration = Duration::from_secs(1);
/// Handshakes at once.
const AT_ONCE: usize = 256;

impl ServerTls {
    /// Reads a certificate chain and its key, both in PEM. With `client_ca`, only who has a certificate that one of these
    /// signed gets as far as to show a token.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn open(
        cert: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        client_ca: Option<PathBuf>,
    ) -> io::Result<Self> {
        let files = Files { cert: cert.into(), key: key.into(), client_ca };
        let current = (files.stamp(), Arc::new(files.load()?));
        Ok(Self { files: Arc::new(files), current: Arc::new(Mutex::new(current)) })
    }

    /// The configuration by the present files; the last good one while they are not.
    fn config(&self) -> Arc<ServerConfig> {
        let stamp = self.files.stamp();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp != current.0 {
            match self.files.load() {
                Ok(config) => *current = (stamp, Arc::new(config)),
                Err(error) => {
                    tracing::error!(%error, "the new certificate cannot be used: the old one is");
                    // Said once for each change.
                    current.0 = stamp;
                }
            }
        }
        current.1.clone()
    }

    /// The connections that come to a listener, once they have shaken hands.
    pub(super) fn accept(
        self,
        listener: TcpListener,
        tasks: &Tasks,
    ) -> mpsc::Receiver<io::Result<TlsStream<TcpStream>>> {
        let (accepted, incoming) = mpsc::channel(AT_ONCE);
        let (shaking, handshakes) = (Arc::new(Semaphore::new(AT_ONCE)), tasks.clone());
        tasks.spawn("tls listener", async move {
            let clock = SystemClock::default();
            let mut under_way = UnderWay::default();
            let mut accepting = Accepting::new(listener);
            loop {
                let next = async {
                    let stream = accepting.next().await;
                    Some((stream, under_way.room(&shaking, &clock).await?))
                };
                let next = tokio::select! { biased; () = accepted.closed() => return, next = next => next };
                let Some((stream, room)) = next else { return };
                let crowded_out = under_way.add(clock.monotonic());
                let (acceptor, accepted) = (TlsAcceptor::from(self.config()), accepted.clone());
                handshakes.spawn("tls handshake", async move {
                    let shaken = tokio::select! {
                        biased;
                        shaken = clock.timeout(HANDSHAKE, acceptor.accept(stream)) => shaken,
                        _ = crowded_out => return tracing::debug!("a client was too slow to shake hands"),
                    };
                    match shaken {
                        Ok(Ok(stream)) => drop(accepted.send(Ok(stream)).await),
                        Ok(Err(error)) => tracing::debug!(%error, "a client was not let in"),
                        Err(error) => tracing::debug!(%error, "a client does not shake hands"),
                    }
                    drop(room);
                });
            }
        });
        incoming
    }
}

/// Handshakes under way, the longest first.
#[derive(Default)]
struct UnderWay(VecDeque<(Duration, oneshot::Sender<()>)>);

impl UnderWay {
    /// One more, from now on; resolves when it has to make room.
    fn add(&mut self, now: Duration) -> oneshot::Receiver<()> {
        let (one, crowded_out) = oneshot::channel();
        self.0.push_back((now, one));
        crowded_out
    }

    /// Waits for room. Those who come and say nothing keep nobody out: where there is none, the one that took longest
    /// goes, once it is slow.
    async fn room(&mut self, shaking: &Arc<Semaphore>, clock: &SystemClock) -> Option<OwnedSemaphorePermit> {
        loop {
            self.0.retain(|(_, one)| !one.is_closed());
            if let Ok(room) = shaking.clone().try_acquire_owned() {
                return Some(room);
            }
            let oldest = self.0.front().map_or(Duration::ZERO, |(since, _)| clock.monotonic() - *since);
            let mut patience = SLOW.saturating_sub(oldest);
            if patience.is_zero() {
                self.0.pop_front();
                // It was told to go, and needs a moment.
                patience = Duration::from_millis(10);
            }
            if let Ok(room) = clock.timeout(patience, shaking.clone().acquire_owned()).await {
                return room.ok();
            }
        }
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
        return Err(wrong(path, &"it has no certificate"));
    }
    Ok(found)
}

fn wrong(path: &Path, why: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{} cannot be used for TLS: {why}", path.display()))
}
