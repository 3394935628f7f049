//! Addresses and credentials of NATS servers.

use std::fmt;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;

use crate::error::{OpenError, without_users};

/// Timeout for an answer of a server.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The servers of a list of URLs; they belong to one cluster.
#[derive(Clone)]
pub(super) struct Servers {
    /// Without credentials, because the client would log them.
    addresses: Vec<ServerAddr>,
    login: Option<Login>,
    shown: String,
}

#[derive(Clone)]
enum Login {
    Token(String),
    User(String, String),
}

impl Servers {
    /// Parses comma-separated URLs; `None` when one is malformed. The credentials are those of the first URL that has
    /// any.
    pub(super) fn parse(urls: &str) -> Option<Self> {
        let (mut addresses, mut login) = (Vec::new(), None);
        for url in urls.split(',') {
            let address: ServerAddr =
                url.trim().parse().ok().filter(|at: &ServerAddr| !at.host().is_empty())?;
            login = login.or_else(|| Login::of(&address));
            let mut url = address.into_inner();
            url.set_username("").and_then(|()| url.set_password(None)).ok()?;
            addresses.push(ServerAddr::from_url(url).ok()?);
        }
        Some(Self { addresses, login, shown: without_users(urls) })
    }

    /// Connects to the first server that answers. The client does not reconnect when the connection breaks.
    pub(super) async fn connect(&self, options: ConnectOptions) -> Result<Client, ConnectError> {
        let options = match self.login.clone() {
            Some(Login::Token(token)) => options.token(token),
            Some(Login::User(user, password)) => options.user_and_password(user, password),
            None => options,
        };
        // Just enough tries for one round: the caller reconnects by itself, so that it knows when messages were lost.
        let options = options.max_reconnects(self.addresses.len()).retain_servers_order();
        options.name("hodei").connection_timeout(ANSWER_TIMEOUT).connect(&self.addresses[..]).await
    }

    /// Returns the error to report when a server rejects the credentials.
    pub(super) fn refused(&self, error: &ConnectError) -> Option<OpenError> {
        let refuses = [ConnectErrorKind::Authentication, ConnectErrorKind::AuthorizationViolation];
        let why =
            "it rejects the credentials: check the user and password, or the token, in its URL".to_owned();
        refuses.contains(&error.kind()).then(|| OpenError::Nats { url: self.shown.clone(), why })
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Servers").field(&self.shown).finish()
    }
}

impl Login {
    fn of(address: &ServerAddr) -> Option<Self> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = decoded(address.username()?);
        Some(match address.password() {
            Some(password) => Self::User(user, decoded(password)),
            None => Self::Token(user),
        })
    }
}
