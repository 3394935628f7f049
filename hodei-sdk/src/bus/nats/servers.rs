//! Where NATS is, and who signs in.

use std::fmt;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;

use super::LIMIT;
use crate::error::{OpenError, without_users};

/// The servers of a list of URLs, which are one cluster.
#[derive(Clone)]
pub(super) struct Servers {
    /// Without who signs in: the client would show it.
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
    /// Of URLs with commas between; `None` when they are malformed. Who signs in is what the first of them says that
    /// says something.
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

    /// Connects to the first that answers; the connection is not made again when it breaks.
    pub(super) async fn connect(&self, options: ConnectOptions) -> Result<Client, ConnectError> {
        let options = match self.login.clone() {
            Some(Login::Token(token)) => options.token(token),
            Some(Login::User(user, password)) => options.user_and_password(user, password),
            None => options,
        };
        // As few as it takes: whoever uses it makes the next one, and knows by that what was lost.
        let options = options.max_reconnects(self.addresses.len()).retain_servers_order();
        options.name("hodei").connection_timeout(LIMIT).connect(&self.addresses[..]).await
    }

    /// The error of a server that is there and takes nobody who signs in like this.
    pub(super) fn refused(&self, error: &ConnectError) -> Option<OpenError> {
        let refuses = [ConnectErrorKind::Authentication, ConnectErrorKind::AuthorizationViolation];
        let why = "it refuses who signs in: the user and password, or the token, of its URL".to_owned();
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
