//! Opens the platform of a daemon, serves it, and drains it at a stop.

use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hodei_sdk::grpc::{GrpcServer, ServerTls};
use hodei_sdk::{
    AgentCheck, DirectorySecrets, FileLogger, Hodei, ObjectArtifacts, ProcessOptions, ProcessProvider,
    SecretKeys,
};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ConfigError, Secrets};
use crate::descriptors;
use crate::listen::{Listen, SocketFile};
use crate::signals::{Request, Signals};
use crate::token::{TokenError, load_or_make};

/// Why a daemon does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("{0}")]
    Platform(#[from] hodei_sdk::Error),
    #[error("cannot listen on {at}: {error}{}", match error.kind() {
        io::ErrorKind::AddrInUse => "; is another daemon running? Name another address with --listen",
        _ => "",
    })]
    Listen { at: Listen, error: io::Error },
    #[error("tls: {0}")]
    Tls(io::Error),
    #[error("{} cannot be written, so workers of an earlier start cannot find this daemon: {error}", path.display())]
    Address { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Agents(AgentCheck),
    #[error("a part of the platform failed: the log says which")]
    Stopped,
    #[error("the server failed: {0}")]
    Serve(io::Error),
    #[error("the runtime cannot start: {0}")]
    Runtime(io::Error),
}

/// Time for open calls to end after the drain.
const OPEN_CALLS_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves until a signal asks to stop and the platform is drained; a second signal ends the daemon at once.
///
/// HUP reloads the configuration, and `log` gets the new one.
pub(crate) async fn run(mut config: Config, log: impl Fn(&Config)) -> Result<ExitCode, DaemonError> {
    let mut signals = Signals::new().map_err(DaemonError::Runtime)?;
    // Before the store: with a taken port, the daemon must not wait for the data directory of the port's owner.
    let listen = |error| DaemonError::Listen { at: config.listen.clone(), error };
    let tls = config.tls.as_ref();
    let tls = tls.map(|tls| ServerTls::open(&tls.cert, &tls.key, tls.client_ca.clone())).transpose();
    let tls = tls.map_err(DaemonError::Tls)?;
    let (listener, mut url) = config.listen.bind().await.map_err(listen)?;
    if tls.is_some() {
        url = url.replacen("http:", "https:", 1);
    }
    let _socket = SocketFile::of(&config.listen);
    let token = load_or_make(&config.data_dir)?;
    let agents = agents(&config, &url);
    let hodei = open(&config, &url, agents.clone()).await?;
    // Only now, since the directory could have belonged to another daemon.
    let path = address_file(&config);
    write_address(&path, agent_url(&config, &url)).map_err(|error| DaemonError::Address { path, error })?;
    let stop = CancellationToken::new();
    let mut server = GrpcServer::new(&hodei).token(&token);
    if let Some(tls) = tls {
        server = server.tls(tls);
    }
    let mut server = std::pin::pin!(server.serve(listener, stop.clone()));
    // A closed standard error has no reader.
    let _ = writeln!(std::io::stderr(), "listening on {url}");
    let is_own = agents.servers.contains(&url);
    let mut check = std::pin::pin!(agents.check());
    let mut is_checked = false;
    loop {
        tokio::select! {
            biased;
            served = &mut server => return served.map(|()| ExitCode::SUCCESS).map_err(DaemonError::Serve),
            // A platform without one of its parts is useless; a service manager can start a new daemon.
            () = hodei.stopped() => {
                // The answers to open calls say why.
                stop.cancel();
                tokio::select! { biased; _ = &mut server => {}, () = sleep(OPEN_CALLS_TIMEOUT) => {} }
                return Err(DaemonError::Stopped);
            }
            checked = &mut check, if !is_checked => {
                is_checked = true;
                accept(checked, is_own)?;
            }
            request = signals.next() => match request {
                Request::Stop => break,
                Request::Reload => reload(&mut config, &hodei, &log),
            },
        }
    }
    let limit = config.settings.drain_timeout;
    log_stop(config.hands_over(), limit);
    let ended = async {
        // Agents and followers stay connected until the running jobs have ended.
        hodei.shutdown_within(limit).await;
        stop.cancel();
        sleep(OPEN_CALLS_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        () = signals.stop() => Ok(ExitCode::FAILURE),
        served = &mut server => served.map(|()| ExitCode::SUCCESS).map_err(DaemonError::Serve),
        () = ended => Ok(ExitCode::SUCCESS),
    }
}

fn log_stop(hands_over: bool, limit: Duration) {
    if hands_over {
        tracing::warn!("stopping: other daemons of the store, or the next start, continue the running jobs");
    } else {
        tracing::warn!(
            "stopping: running jobs have {limit:?} to end; a second signal ends this daemon at once and leaves its workers running"
        );
    }
}

#[allow(clippy::disallowed_methods, reason = "the daemon is outside of the platform and its clock")]
async fn sleep(wait: Duration) {
    tokio::time::sleep(wait).await;
}

/// Returns the path of the file by which agents find this daemon after a restart at another address.
fn address_file(config: &Config) -> PathBuf {
    let path = config.data_dir.join("address");
    std::path::absolute(&path).unwrap_or(path)
}

/// Returns the URL for the agents of this daemon: the advertised one if it uses TLS, since the certificate may have
/// only that name.
fn agent_url<'a>(config: &'a Config, url: &'a str) -> &'a str {
    config.advertise.as_deref().filter(|url| url.starts_with("https:")).unwrap_or(url)
}

/// Replaces the file atomically: an agent that reads it meanwhile sees the old or the new address.
fn write_address(path: &Path, url: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let options = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    writeln!(options?, "{url}")?;
    std::fs::rename(&new, path)
}

/// Turns a failed check of the agents into an error. An unreachable address that is not the daemon's own is only a
/// warning: it may be that of a load balancer, which leads here once it has seen that the daemon is healthy.
fn accept(checked: Result<(), AgentCheck>, is_own: bool) -> Result<(), DaemonError> {
    match checked {
        Ok(()) => Ok(()),
        Err(why @ AgentCheck::NotReached(_)) if !is_own => {
            tracing::warn!("{why}");
            Ok(())
        }
        Err(why) => Err(DaemonError::Agents(why)),
    }
}

/// Returns the options of the daemon's workers.
fn agents(config: &Config, url: &str) -> ProcessOptions {
    let mut options = ProcessOptions::new(&config.agent, agent_url(config, url));
    options.server_file = Some(address_file(config));
    if let Some(tls) = &config.tls {
        options.tls.clone_from(&tls.agents);
    }
    options.spool_dir.clone_from(&config.data_dir);
    options.workers.workspaces.dir.clone_from(&config.workspace_dir);
    options.spool_limit = config.spool_limit.unwrap_or(options.spool_limit);
    options.workers.file_logger = config.job_log_dir.as_ref().map(FileLogger::new);
    options.orphan_timeout = config.orphan_timeout;
    options.workers.start_state = config.start_state.clone();
    options.soft_files = descriptors::raise_limit();
    options.workers.max_workers = config.max_workers;
    options.workers.lifetime.idle = Some(config.idle_timeout);
    options.workers.slots = config.slots.unwrap_or(options.workers.slots);
    if let Some(secrets) = &config.worker_secrets {
        options.workers.secrets.clone_from(secrets);
    }
    options
}

async fn open(config: &Config, url: &str, options: ProcessOptions) -> Result<Hodei, DaemonError> {
    let make = |context| ProcessProvider::new(context, options);
    let mut builder = Hodei::builder().url(&config.store).settings(config.settings.clone()).provider(make);
    builder = builder.secret_policy(config.secret_policy.clone());
    builder = match &config.secrets {
        Secrets::Store => builder.secret_keys(SecretKeys::new(&config.secret_keys)),
        Secrets::Directory(dir) => builder.secrets(Arc::new(DirectorySecrets::new(dir))),
    };
    if let Some(place) = &config.artifacts {
        builder = builder.artifacts(Arc::new(ObjectArtifacts::open(place).map_err(hodei_sdk::Error::from)?));
    }
    if let Some(hints) = &config.hints {
        builder = builder.hints(hints);
    }
    if let Some(urls) = &config.events {
        builder = builder.events(urls);
    }
    Ok(builder.advertise(config.advertise.as_deref().unwrap_or(url)).start().await?)
}

/// Applies the keys of a new configuration that need no restart. TLS files are read for each connection anyway.
fn reload(config: &mut Config, hodei: &Hodei, log: &impl Fn(&Config)) {
    match Config::load_again() {
        Ok(new) => {
            log(&new);
            hodei.secrets().set_policy(new.secret_policy.clone());
            config.settings.drain_timeout = new.settings.drain_timeout;
            tracing::warn!(
                "reloaded: log_level, secret_policy and drain_timeout have their new values; other keys need a restart"
            );
        }
        Err(error) => {
            tracing::error!(%error, "not reloaded: the new configuration is not valid, and the old one stays")
        }
    }
}
