//! Options that select the platform of a command: a daemon, a data directory, or this process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use clap::Args;
use hodei_sdk::id::StoreId;
use hodei_sdk::{
    ConnectOptions, Hodei, HodeiBuilder, LocalOptions, LocalProvider, RefusalKind, TlsFiles, Workspaces,
    default_data_dir, is_near,
};

use crate::error::CliError;

/// Options that name a daemon, and how to connect to it.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Use the daemon at this address: `https://HOST:PORT`, `http://HOST:PORT` or `unix:PATH`. For several daemons that
    /// share a store, write their addresses with commas; the first that answers is used. This option overrides
    /// HODEI_DATA_DIR [env: HODEI_SERVER].
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    server: Option<String>,
    /// Read the daemon's token from this file; HODEI_TOKEN holds the token itself
    /// [default: `token` in the daemon's default data directory].
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "HODEI_TOKEN_FILE",
        help_heading = "Global options"
    )]
    token_file: Option<PathBuf>,
    /// Trust the certificate authorities in this PEM file for the daemon's certificate [default: those of this
    /// machine].
    #[arg(long, global = true, value_name = "FILE", env = "HODEI_CA_FILE", help_heading = "Global options")]
    ca_file: Option<PathBuf>,
    /// Show the certificate in this PEM file to the daemon; needs --key-file.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "HODEI_CERT_FILE",
        help_heading = "Global options"
    )]
    cert_file: Option<PathBuf>,
    /// Use the private key in this PEM file for --cert-file.
    #[arg(long, global = true, value_name = "FILE", env = "HODEI_KEY_FILE", help_heading = "Global options")]
    key_file: Option<PathBuf>,
}

/// Environment variable that names the daemon.
pub(crate) const SERVER_VARIABLE: &str = "HODEI_SERVER";
/// Environment variable that names the data directory, of the daemon and of a client.
pub(crate) const DATA_DIR_VARIABLE: &str = "HODEI_DATA_DIR";

/// Default address of a daemon.
const DEFAULT_SERVER: &str = "http://127.0.0.1:7443";

impl Target {
    /// Connects to the daemon that is named; `None` if none is. For `run`, which has no default daemon.
    pub(crate) async fn named(&self) -> Result<Option<Hodei>, CliError> {
        match self.server() {
            Some(url) => Ok(Some(self.connect(url).await?)),
            None => Ok(None),
        }
    }

    /// Opens the platform of a command that needs an existing one: `--server`, else the data directory, else
    /// HODEI_SERVER, else the daemon of this machine.
    pub(crate) async fn open(&self, data_dir: Option<&Path>) -> Result<Hodei, CliError> {
        match self.dir(data_dir) {
            Some(dir) => {
                check(dir)?;
                Ok(Hodei::builder().url(store_url(dir)).passive().start().await?)
            }
            None => self.connect(self.server().unwrap_or_else(|| DEFAULT_SERVER.to_owned())).await,
        }
    }

    /// Returns the data directory, unless `--server` overrides it.
    pub(crate) fn dir<'a>(&self, data_dir: Option<&'a Path>) -> Option<&'a Path> {
        data_dir.filter(|_| self.server.is_none())
    }

    fn server(&self) -> Option<String> {
        self.server.clone().or_else(|| std::env::var(SERVER_VARIABLE).ok().filter(|url| !url.is_empty()))
    }

    async fn connect(&self, servers: String) -> Result<Hodei, CliError> {
        let urls: Vec<String> = servers.split(',').map(|url| url.trim().to_owned()).collect();
        let token = std::env::var("HODEI_TOKEN").ok().filter(|token| !token.is_empty());
        let default = || Some(default_data_dir().join("token")).filter(|path| path.is_file());
        // The token of this machine's daemon must not be sent to another daemon.
        let is_local = urls.iter().all(|url| is_near(url));
        let token_file = self.token_file.clone().or_else(|| if is_local { default() } else { None });
        let sent = match (&token, &token_file) {
            (Some(_), _) => Some("HODEI_TOKEN".to_owned()),
            (None, Some(path)) => Some(path.display().to_string()),
            (None, None) => None,
        };
        let (ca, cert, key) = (self.ca_file.clone(), self.cert_file.clone(), self.key_file.clone());
        let tls = TlsFiles { ca, cert, key };
        let options = ConnectOptions { urls, token, token_file, tls, ..ConnectOptions::new("") };
        Hodei::connect_with(options).await.map_err(|error| match (error, sent) {
            (hodei_sdk::Error::Refused(refused), None) if refused.kind == RefusalKind::Unauthenticated => {
                CliError::NoToken(servers)
            }
            (hodei_sdk::Error::Refused(refused), Some(from))
                if refused.kind == RefusalKind::Unauthenticated =>
            {
                CliError::Token { from, why: refused.message }
            }
            (error, _) => error.into(),
        })
    }
}

/// Builds a platform in this process. Its jobs run in the current directory, unless they need a workspace.
pub(crate) fn here() -> HodeiBuilder {
    Hodei::builder().provider(|context| LocalProvider::new(context, local_options()))
}

/// Builds the same platform as [`here`], and stores in `owner` the id of the store that owns its jobs.
pub(crate) fn here_of(owner: Arc<OnceLock<StoreId>>) -> HodeiBuilder {
    Hodei::builder().provider(move |context| {
        owner.get_or_init(|| context.owner());
        LocalProvider::new(context, local_options())
    })
}

/// Returns the options of the worker in this process.
pub(crate) fn local_options() -> LocalOptions {
    let workspaces = Workspaces { only_if_needed: true, ..Workspaces::default() };
    // No other child process needs its orphans: the guard of a run is started before any job.
    LocalOptions { workspaces, adopts_orphans: true, ..LocalOptions::default() }
}

/// Returns the URL of the store in a data directory.
pub(crate) fn store_url(dir: &Path) -> String {
    format!("sqlite:{}", dir.display())
}

/// Checks that a data directory has a store: a mistyped path must not create one.
pub(crate) fn check(dir: &Path) -> Result<(), CliError> {
    match dir.join("hodei.db").try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(CliError::NoDataDir(dir.to_owned())),
        Err(error) => Err(CliError::File { path: dir.to_owned(), error }),
    }
}
