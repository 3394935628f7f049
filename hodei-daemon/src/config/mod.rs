//! The configuration. Each key can be in a TOML file, in the environment and on the command line, by rising precedence.

mod keys;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use hodei_sdk::secret::SecretPattern;
use hodei_sdk::{OnShutdown, SecretPolicy, Settings, StartState, TlsFiles};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::certs::CertsArgs;
use crate::listen::Listen;
use keys::{Keys, Limits, ShutdownMode, Span};

pub(crate) use keys::Secrets;

/// Run jobs for the programs of this machine in worker processes.
#[derive(Debug, Parser)]
#[command(name = "hodei-daemon", version, about, args_conflicts_with_subcommands = true)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Read the keys below from this TOML file; the environment and flags override it.
    #[arg(long, value_name = "FILE", env = "HODEI_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    keys: Keys,
}

/// Commands besides serving.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Certs(CertsArgs),
    Adopt(AdoptArgs),
}

/// Make a copy of a data directory a store of its own, without a change to the original. Jobs that were open in the
/// copied state run in both.
#[derive(Debug, clap::Args)]
pub(crate) struct AdoptArgs {
    /// Directory of the copy.
    pub(crate) dir: PathBuf,
}

/// Content of the file of `secret_policy`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    rules: SecretPolicy,
}

fn policy(path: PathBuf) -> Result<SecretPolicy, ConfigError> {
    read_toml(path).map(|file: PolicyFile| file.rules)
}

fn read_toml<T: DeserializeOwned>(path: PathBuf) -> Result<T, ConfigError> {
    match std::fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).map_err(|error| toml_error(path, &text, &error)),
        Err(error) => Err(ConfigError::File { path, error }),
    }
}

/// Why the configuration is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{} cannot be read: {error}", path.display())]
    File { path: PathBuf, error: std::io::Error },
    // Without the text of the line, which may have a password.
    #[error("{}: line {line}: {why}", path.display())]
    Toml { path: PathBuf, line: usize, why: String },
    #[error(
        "listen: {0} can be reached from other machines: name a certificate with --tls-cert and --tls-key (`hodei-daemon certs` creates one), listen on 127.0.0.1, or allow it with --insecure"
    )]
    Reachable(Listen),
    #[error(
        "lease: {lease:?} is less than twice the heartbeat of {heartbeat:?}, so one late message would lose a worker: raise lease or lower heartbeat"
    )]
    Lease { lease: Duration, heartbeat: Duration },
    #[error("{0}: needs {1} as well")]
    Pair(&'static str, &'static str),
    #[error("advertise: `{0}` is not a valid URL: write https://HOST:PORT, http://HOST:PORT or unix:PATH")]
    Advertise(String),
    #[error(
        "advertise: `{0}` does not use TLS, but the daemon does: write https://HOST:PORT, or remove tls_cert"
    )]
    AdvertiseInClear(String),
    #[error(
        "hints: only daemons that share a store exchange hints: name a postgres:// store, or remove hints"
    )]
    Hints,
    #[error(
        "log_level: `{0}` is not valid: write off, error, warn, info, debug, trace or TARGET=LEVEL, several with commas"
    )]
    LogLevel(String),
    #[error("{0}: must be at least 1")]
    Zero(&'static str),
    #[error("job_umask: {0}")]
    Umask(String),
    #[error("{name}: {value} is out of range: write a number from {least} to {most}")]
    Range { name: &'static str, value: i32, least: i32, most: i32 },
    #[error("{key}: {got:?} is less than the minimum of {least:?}: {why}")]
    Short { key: &'static str, got: Duration, least: Duration, why: &'static str },
    #[error(
        "daemon_lease: {0:?} is less than the minimum of 100ms: any pause of a machine would count as the death of its daemon"
    )]
    DaemonLease(Duration),
    #[error("{0}")]
    Flags(#[from] clap::Error),
    #[error("agent: {} is not a file: name the program hodei-agent with --agent", .0.display())]
    NoAgent(PathBuf),
}

/// TLS files of a daemon and of its agents.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) agents: TlsFiles,
}

/// A complete and valid configuration.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: Listen,
    pub(crate) store: String,
    pub(crate) advertise: Option<String>,
    pub(crate) tls: Option<Tls>,
    pub(crate) hints: Option<String>,
    pub(crate) events: Option<String>,
    pub(crate) secrets: Secrets,
    pub(crate) secret_keys: PathBuf,
    pub(crate) secret_policy: SecretPolicy,
    pub(crate) worker_secrets: Option<Vec<SecretPattern>>,
    pub(crate) artifacts: Option<String>,
    pub(crate) workspace_dir: PathBuf,
    pub(crate) spool_limit: Option<u64>,
    pub(crate) job_log_dir: Option<PathBuf>,
    pub(crate) log_level: String,
    pub(crate) slots: Option<u32>,
    pub(crate) max_workers: u32,
    pub(crate) idle_timeout: Duration,
    pub(crate) start_state: StartState,
    pub(crate) agent: PathBuf,
    pub(crate) orphan_timeout: Duration,
    pub(crate) settings: hodei_sdk::Settings,
}

impl Config {
    /// Reads the file, if one is named, and applies the environment and the flags over it.
    pub(crate) fn load(flags: Flags) -> Result<Self, ConfigError> {
        let file = match flags.config {
            Some(path) => read_toml(path)?,
            None => Keys::default(),
        };
        Self::check(flags.keys.over(file))
    }

    /// Loads the configuration again with the arguments of this process: the file may have changed.
    pub(crate) fn load_again() -> Result<Self, ConfigError> {
        Self::load(Flags::try_parse()?)
    }

    /// Whether a stop leaves running jobs at once, since other daemons may continue them.
    pub(crate) fn hands_over(&self) -> bool {
        is_shared(&self.store) && self.settings.on_shutdown == OnShutdown::Leave
    }

    fn check(keys: Keys) -> Result<Self, ConfigError> {
        check_values(&keys)?;
        let tls = tls(&keys)?;
        let data_dir = keys.data_dir.clone().unwrap_or_else(hodei_sdk::default_data_dir);
        let listen =
            keys.listen.clone().unwrap_or_else(|| Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 7443))));
        if listen.is_reachable() && tls.is_none() && keys.insecure != Some(true) {
            return Err(ConfigError::Reachable(listen));
        }
        let store = keys.store.clone().unwrap_or_else(|| format!("sqlite:{}", data_dir.display()));
        let settings = settings(&keys, &store)?;
        let start_state = start_state(&keys)?;
        let log_level = keys.log_level.unwrap_or_else(|| "warn".into());
        if !is_filter(&log_level) {
            return Err(ConfigError::LogLevel(log_level));
        }
        if keys.hints.is_some() && !is_shared(&store) {
            return Err(ConfigError::Hints);
        }
        let agent = keys.agent.unwrap_or_else(|| {
            let this = std::env::current_exe().unwrap_or_default();
            this.with_file_name("hodei-agent")
        });
        if !agent.is_file() {
            return Err(ConfigError::NoAgent(agent));
        }
        Ok(Self {
            store,
            tls,
            advertise: keys.advertise,
            hints: keys.hints,
            events: keys.events,
            secrets: keys.secrets.unwrap_or(Secrets::Store),
            secret_keys: keys.secret_keys.unwrap_or_else(|| data_dir.join("secrets.key")),
            secret_policy: keys.secret_policy.map(policy).transpose()?.unwrap_or_default(),
            worker_secrets: keys.worker_secrets,
            artifacts: keys.artifacts,
            spool_limit: keys.spool_limit,
            job_log_dir: keys.job_log_dir,
            workspace_dir: keys.workspace_dir.unwrap_or_else(|| data_dir.join("workspaces")),
            data_dir,
            listen,
            log_level,
            slots: keys.slots,
            max_workers: keys.max_workers.unwrap_or(1),
            idle_timeout: span(keys.idle_timeout, Duration::from_secs(60)),
            start_state,
            agent,
            orphan_timeout: span(keys.orphan_timeout, Duration::from_secs(30 * 60)),
            settings,
        })
    }
}

/// Returns the start state of jobs.
fn start_state(keys: &Keys) -> Result<StartState, ConfigError> {
    let default = StartState::default();
    let umask = keys.job_umask.as_deref().map(StartState::parse_umask).transpose();
    for (name, value, least, most) in [
        ("job_niceness", keys.job_niceness, -20, 19),
        ("job_oom_score_adj", keys.job_oom_score_adj, -1000, 1000),
    ] {
        if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
            return Err(ConfigError::Range { name, value, least, most });
        }
    }
    Ok(StartState {
        umask: umask.map_err(ConfigError::Umask)?.unwrap_or(default.umask),
        niceness: keys.job_niceness,
        oom_score_adj: keys.job_oom_score_adj,
        ..default
    })
}

/// Returns the TLS files; checks that those that need each other are given.
fn tls(keys: &Keys) -> Result<Option<Tls>, ConfigError> {
    let (cert, key) = match (&keys.tls_cert, &keys.tls_key) {
        (Some(cert), Some(key)) => (cert.clone(), key.clone()),
        (Some(_), None) => return Err(ConfigError::Pair("tls_cert", "tls_key")),
        (None, Some(_)) => return Err(ConfigError::Pair("tls_key", "tls_cert")),
        (None, None) => {
            let others = [
                ("tls_ca", &keys.tls_ca),
                ("tls_client_ca", &keys.tls_client_ca),
                ("tls_agent_cert", &keys.tls_agent_cert),
            ];
            let given = others.into_iter().find(|(_, file)| file.is_some());
            return given.map_or(Ok(None), |(name, _)| Err(ConfigError::Pair(name, "tls_cert and tls_key")));
        }
    };
    if keys.tls_agent_cert.is_some() != keys.tls_agent_key.is_some() {
        return Err(ConfigError::Pair("tls_agent_cert", "tls_agent_key"));
    }
    if keys.tls_client_ca.is_some() && keys.tls_agent_cert.is_none() {
        return Err(ConfigError::Pair("tls_client_ca", "tls_agent_cert"));
    }
    let (ca, cert_of_agent, key_of_agent) =
        (keys.tls_ca.clone(), keys.tls_agent_cert.clone(), keys.tls_agent_key.clone());
    let agents = TlsFiles { ca, cert: cert_of_agent, key: key_of_agent };
    Ok(Some(Tls { cert, key, client_ca: keys.tls_client_ca.clone(), agents }))
}

/// Describes an error in a file by its line and its key.
fn toml_error(path: PathBuf, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = 1 + before.matches('\n').count();
    let key = text.lines().nth(line - 1).and_then(|line| line.split_once('=')).map(|(key, _)| key.trim());
    let why = match key {
        Some(key) if !error.message().contains(key) => format!("{key}: {}", error.message()),
        _ => error.message().to_owned(),
    };
    ConfigError::Toml { path, line, why }
}

/// Whether each part ends with a level. The parser takes a misspelt level for the name of a target.
fn is_filter(text: &str) -> bool {
    let level =
        |part: &str| part.rsplit('=').next().is_some_and(|level| level.trim().parse::<LevelFilter>().is_ok());
    text.split(',').all(level) && EnvFilter::builder().parse(text).is_ok()
}

fn is_shared(store: &str) -> bool {
    store.starts_with("postgres")
}

/// Minimum of `idle_timeout` and `orphan_timeout`.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const MIN_HEARTBEAT: Duration = Duration::from_millis(10);
const MIN_HISTORY: Duration = Duration::from_secs(60);

/// Checks the values that can be checked without other keys, or with few of them.
fn check_values(keys: &Keys) -> Result<(), ConfigError> {
    for (name, number) in [("slots", keys.slots), ("max_workers", keys.max_workers)] {
        if number == Some(0) {
            return Err(ConfigError::Zero(name));
        }
    }
    for (name, bytes) in [("artifact_limit", keys.artifact_limit), ("spool_limit", keys.spool_limit)] {
        if bytes == Some(0) {
            return Err(ConfigError::Zero(name));
        }
    }
    for (key, given, least, why) in [
        ("idle_timeout", keys.idle_timeout, MIN_TIMEOUT, "workers would end before they got a job"),
        (
            "orphan_timeout",
            keys.orphan_timeout,
            MIN_TIMEOUT,
            "an agent would end its jobs whenever a daemon restarts",
        ),
        ("heartbeat", keys.heartbeat, MIN_HEARTBEAT, "agents would do little but send heartbeats"),
        ("history", keys.history, MIN_HISTORY, "jobs would be forgotten before their results could be read"),
    ] {
        if let Some(Span(got)) = given.filter(|Span(got)| *got < least) {
            return Err(ConfigError::Short { key, got, least, why });
        }
    }
    // Checked only at the start: later the directory may be away for a while.
    if let Some(Secrets::Directory(dir)) = &keys.secrets
        && let Err(error) = std::fs::read_dir(dir)
    {
        return Err(ConfigError::File { path: dir.clone(), error });
    }
    if let Some(url) = keys.advertise.as_ref().filter(|url| !is_url(url)) {
        return Err(ConfigError::Advertise(url.clone()));
    }
    // Agents would send their credentials to that address without TLS.
    if let Some(url) = keys.advertise.as_ref().filter(|url| keys.tls_cert.is_some() && is_in_clear(url)) {
        return Err(ConfigError::AdvertiseInClear(url.clone()));
    }
    Ok(())
}

fn settings(keys: &Keys, store: &str) -> Result<Settings, ConfigError> {
    let mut settings = Settings::default();
    settings.drain_timeout = span(keys.drain_timeout, settings.drain_timeout);
    // The other daemons continue the running jobs.
    let default = if is_shared(store) { OnShutdown::Leave } else { settings.on_shutdown };
    settings.on_shutdown = keys.on_shutdown.map_or(default, |ShutdownMode(mode)| mode);
    settings.daemon_lease = span(keys.daemon_lease, settings.daemon_lease);
    settings.heartbeat = span(keys.heartbeat, settings.heartbeat);
    settings.lease = span(keys.lease, settings.lease);
    settings.history = span(keys.history, settings.history);
    settings.limits = keys.limits.map_or(settings.limits, |Limits(policy)| policy);
    settings.artifact_limit = keys.artifact_limit.unwrap_or(settings.artifact_limit);
    if settings.daemon_lease < Duration::from_millis(100) {
        return Err(ConfigError::DaemonLease(settings.daemon_lease));
    }
    if settings.lease < settings.heartbeat * 2 {
        return Err(ConfigError::Lease { lease: settings.lease, heartbeat: settings.heartbeat });
    }
    Ok(settings)
}

fn span(span: Option<Span>, default: Duration) -> Duration {
    span.map_or(default, |Span(duration)| duration)
}

fn is_in_clear(url: &str) -> bool {
    url.starts_with("http://")
}

fn is_url(text: &str) -> bool {
    let rest = ["https://", "http://", "unix:"].into_iter().find_map(|scheme| text.strip_prefix(scheme));
    rest.is_some_and(|rest| !rest.is_empty())
}

/// Reads the text of a configuration file; the error says why it is refused.
#[cfg(fuzzing)]
pub(crate) fn read(text: &str) -> Result<(), String> {
    let keys: Keys =
        toml::from_str(text).map_err(|error| toml_error("x".into(), text, &error).to_string())?;
    Config::check(keys).map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, flags: &[&str]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let (file, agent) = (dir.path().join("daemon.toml"), dir.path().join("hodei-agent"));
        std::fs::write(&file, text).unwrap();
        std::fs::write(&agent, "").unwrap();
        let fixed = ["hodei-daemon", "--config", file.to_str().unwrap(), "--agent", agent.to_str().unwrap()];
        Config::load(Flags::try_parse_from(fixed.iter().chain(flags)).unwrap())
    }

    #[test]
    fn a_flag_overrides_the_file_and_the_file_the_default() {
        let file = "listen = \"127.0.0.1:1\"\nslots = 3\ndrain_timeout = \"1.5s\"\nhistory = \"2d\"\n";
        let config = load(file, &["--slots", "4"]).unwrap();
        assert_eq!(
            (config.listen.to_string(), config.slots, config.max_workers),
            ("127.0.0.1:1".into(), Some(4), 1)
        );
        assert_eq!(config.settings.drain_timeout, Duration::from_millis(1500));
        assert_eq!(config.settings.on_shutdown, OnShutdown::Stop);
        let shared = load("store = \"postgres://localhost/hodei\"\n", &[]).unwrap();
        assert_eq!(shared.settings.on_shutdown, OnShutdown::Leave);
        assert_eq!(config.settings.history, Duration::from_secs(2 * 24 * 3600));
    }

    #[test]
    fn errors_name_the_key_and_the_line() {
        for (text, words) in [
            ("slots = 3\nslot = 4\n", &["line 2", "`slot`", "`slots`"][..]),
            (
                "tls_cert = \"c\"\ntls_key = \"k\"\nadvertise = \"http://h:1\"",
                &["advertise", "https://HOST:PORT"],
            ),
            ("secrets = \"dir:/nowhere\"", &["/nowhere"]),
            ("\ndrain_timeout = \"soon\"", &["line 2", "drain_timeout", "`soon` is not a duration"]),
            ("hintz = \"nats://me:s3cret@h\"", &["line 1", "`hintz`"]),
            ("store = \"postgres://me:s3cret@h/d", &["line 1", "store"]),
            ("slots = \"many\"", &["line 1", "slots", "invalid type"]),
            ("heartbeat = \"0s\"", &["heartbeat: 0ns", "10ms"]),
            ("heartbeat = \"9ms\"", &["heartbeat: 9ms", "10ms"]),
            ("idle_timeout = \"0s\"", &["idle_timeout: 0ns", "1s", "workers"]),
            ("idle_timeout = \"999ms\"", &["idle_timeout: 999ms", "1s"]),
            ("orphan_timeout = \"0s\"", &["orphan_timeout: 0ns", "1s"]),
            ("history = \"0s\"", &["history: 0ns", "60s"]),
            ("history = \"59s\"", &["history: 59s", "60s"]),
            ("artifact_limit = 0", &["artifact_limit: must be at least 1"]),
            ("spool_limit = 0", &["spool_limit: must be at least 1"]),
            ("slots = 0", &["slots: must be at least 1"]),
            ("listen = \"0.0.0.0:1\"", &["listen: 0.0.0.0:1", "--insecure"]),
            ("listen = \"somewhere\"", &["line 1", "listen", "`somewhere` is not a valid address"]),
            ("limits = \"maybe\"", &["line 1", "limits", "`maybe` is not a valid limit policy"]),
            ("on_shutdown = \"wait\"", &["line 1", "on_shutdown", "`wait` is not a valid shutdown mode"]),
            ("lease = \"5s\"", &["lease: 5s", "heartbeat of 5s"]),
            ("daemon_lease = \"1ms\"", &["daemon_lease: 1ms", "100ms"]),
            ("log_level = \"wran\"", &["log_level: `wran`", "TARGET=LEVEL"]),
            ("log_level = \"foo bar=,==\"", &["log_level: `foo bar=,==`"]),
            ("hints = \"none\"", &["hints:", "share a store", "postgres://"]),
            ("advertise = \"here:1\"", &["advertise: `here:1`", "http://"]),
        ] {
            let error = load(text, &[]).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        }
        assert!(load("listen = \"0.0.0.0:1\"", &["--insecure"]).is_ok());
        assert!(load("log_level = \"warn,hodei_sdk=debug\"", &[]).is_ok());
        assert!(load("listen = \"unix:/run/hodei.sock\"", &[]).is_ok());
    }
}
