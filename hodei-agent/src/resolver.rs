//! Resolves the names of servers without the C library, whose resolver loads parts at run time and so does not work in
//! a static program.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

/// Resolves names by `/etc/hosts`, then by the servers of `/etc/resolv.conf`. Reads both files at each query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resolver;

type Addresses = std::vec::IntoIter<SocketAddr>;

impl Service<Name> for Resolver {
    type Response = Addresses;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Addresses>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let provider = TokioRuntimeProvider::default();
            // `/etc/hosts` works without `/etc/resolv.conf`.
            let no_servers = || ResolverConfig::from_parts(None, Vec::new(), Vec::new());
            let mut builder = TokioResolver::builder(provider.clone())
                .unwrap_or_else(|_| TokioResolver::builder_with_config(no_servers(), provider));
            let options = builder.options_mut();
            // An IPv4 address in `/etc/hosts` is enough: no server is queried for IPv6 then.
            options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
            // A server that is away must not take longer than the connection may.
            (options.timeout, options.attempts) = (Duration::from_secs(2), 1);
            let resolver = builder.build().map_err(io::Error::other)?;
            let found = resolver.lookup_ip(name.as_str()).await.map_err(io::Error::other)?;
            Ok(found.iter().map(|ip| SocketAddr::new(ip, 0)).collect::<Vec<_>>().into_iter())
        })
    }
}

/// Whether this build needs [`Resolver`]. Other builds use the system's resolver, which knows more names, such as those
/// of the local network.
pub(crate) const IS_NEEDED: bool = cfg!(target_feature = "crt-static");

/// Returns a connector to hosts by name.
pub(crate) fn connector() -> HttpConnector<Resolver> {
    let mut connector = HttpConnector::new_with_resolver(Resolver);
    // The caller decides on the scheme.
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector
}
