//! The address at which a daemon listens: a port, or a socket in the file system.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hodei_sdk::grpc::Listener;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream, UnixListener};

/// An address, `IP:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let malformed = |_| {
            format!("`{text}` is not a valid address: write IP:PORT, such as 127.0.0.1:7443, or unix:PATH")
        };
        text.parse().map(Self::Tcp).map_err(malformed)
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// Whether other machines can reach the address.
    pub(crate) fn is_reachable(&self) -> bool {
        matches!(self, Self::Tcp(address) if !address.ip().is_loopback())
    }

    /// Listens at the address. Returns the listener, and the URL for clients and agents on this machine.
    pub(crate) async fn bind(&self) -> io::Result<(Listener, String)> {
        match self {
            Self::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                let mut bound = listener.local_addr()?;
                // Agents on this machine reach an unspecified address by a loopback address.
                if bound.ip().is_unspecified() {
                    bound.set_ip(loopback_of(bound).await);
                }
                Ok((Listener::Tcp(listener), format!("http://{bound}")))
            }
            Self::Unix(path) => {
                let path = std::path::absolute(path)?;
                remove_stale(&path)?;
                let listener = UnixListener::bind(&path)?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
                Ok((Listener::Unix(listener), format!("unix:{}", path.display())))
            }
        }
    }
}

/// Returns the loopback address that leads to an unspecified address. `[::]` accepts IPv4 too, unless the system
/// separates the versions (`net.ipv6.bindv6only`).
async fn loopback_of(bound: SocketAddr) -> IpAddr {
    let (four, six) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    if bound.is_ipv4() || TcpStream::connect((four, bound.port())).await.is_ok() { four } else { six }
}

/// The socket file of a daemon. A drop removes it, unless another socket has replaced it.
#[derive(Debug)]
pub(crate) struct SocketFile(Option<(PathBuf, u64)>);

impl SocketFile {
    /// Returns the socket file of a bound address; a port has none.
    pub(crate) fn of(listen: &Listen) -> Self {
        let Listen::Unix(path) = listen else { return Self(None) };
        Self(std::fs::symlink_metadata(path).ok().map(|found| (path.clone(), found.ino())))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some((path, inode)) = &self.0
            && std::fs::symlink_metadata(path).is_ok_and(|found| found.ino() == *inode)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket that refuses connections, since a killed daemon left it.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_port_or_a_path() {
        assert_eq!("127.0.0.1:1".parse(), Ok(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)))));
        assert_eq!("unix:/run/h".parse(), Ok(Listen::Unix("/run/h".into())));
        for text in ["unix:", "localhost", "7443", ""] {
            assert!(text.parse::<Listen>().unwrap_err().contains("IP:PORT"), "{text}");
        }
    }

    #[tokio::test]
    async fn an_unspecified_address_is_reached_by_its_loopback_address() {
        let any = |ip: &str| TcpListener::bind((ip.to_owned(), 0));
        let four = any("0.0.0.0").await.unwrap().local_addr().unwrap();
        assert_eq!(loopback_of(four).await, IpAddr::from(Ipv4Addr::LOCALHOST));
        // This machine may have no IPv6.
        let Ok(both) = any("::").await else { return };
        let keeps_apart = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").unwrap_or_default();
        let expected: IpAddr =
            if keeps_apart.trim() == "1" { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        assert_eq!(loopback_of(both.local_addr().unwrap()).await, expected);
        // IPv6 only, as on a system that separates the versions.
        let Ok(six) = any("::1").await else { return };
        assert_eq!(loopback_of(six.local_addr().unwrap()).await, IpAddr::from(Ipv6Addr::LOCALHOST));
    }
}
