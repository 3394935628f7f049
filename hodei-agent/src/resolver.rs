//! The names of servers, resolved without the C library: a static program cannot use that one's, which loads its parts at
//! run time.

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

/// Asks the servers of `/etc/resolv.conf`, after `/etc/hosts`, both as they are at each question.
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
            // Without `/etc/resolv.conf` there is still `/etc/hosts`.
            let nobody = || ResolverConfig::from_parts(None, Vec::new(), Vec::new());
            let mut builder = TokioResolver::builder(provider.clone())
                .unwrap_or_else(|_| TokioResolver::builder_with_config(nobody(), provider));
            let options = builder.options_mut();
            // An address of version 4 in `/etc/hosts` is enough: nobody is asked for one of version 6 then.
            options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
            // A server that is away costs no more than the connection may take.
            (options.timeout, options.attempts) = (Duration::from_secs(2), 1);
            let resolver = builder.build().map_err(io::Error::other)?;
            let found = resolver.lookup_ip(name.as_str()).await.map_err(io::Error::other)?;
            Ok(found.iter().map(|ip| SocketAddr::new(ip, 0)).collect::<Vec<_>>().into_iter())
        })
    }
}

/// Elsewhere the resolver of the system knows more, such as names of the local network.
pub(crate) const IS_NEEDED: bool = cfg!(target_feature = "crt-static");

/// Connects to a host of any name.
pub(crate) fn connector() -> HttpConnector<Resolver> {
    let mut connector = HttpConnector::new_with_resolver(Resolver);
    // What is said over it is the caller's matter.
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector
}
