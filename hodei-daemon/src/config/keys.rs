//! The keys of the configuration, and the types of their values.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use hodei_sdk::secret::SecretPattern;
use hodei_sdk::time::parse_duration;
use hodei_sdk::{LimitPolicy, OnShutdown};
use serde::Deserialize;

use crate::listen::Listen;

/// Keys of the configuration. Each is a flag, a variable and a key of the file: `--drain-timeout`,
/// `HODEI_DRAIN_TIMEOUT`, `drain_timeout`.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Keys {
    /// Keep the token, and by default the jobs, in this directory, which is created if missing
    /// [default: $XDG_STATE_HOME/hodei, or ~/.local/state/hodei].
    #[arg(long, value_name = "DIR", env = "HODEI_DATA_DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Listen for clients and agents at this address: IP:PORT, where port 0 chooses a free port, or unix:PATH
    /// [default: 127.0.0.1:7443].
    #[arg(long, value_name = "ADDR", env = "HODEI_LISTEN")]
    pub(super) listen: Option<Listen>,
    /// Exchange hints with the other daemons of a shared store through this server: postgres://HOST/DATABASE,
    /// nats://HOST (several with commas), or none, which is slower. Needed if the URL of the store leads to a pooler
    /// [default: the database of the store].
    #[arg(long, value_name = "URL", env = "HODEI_HINTS", hide_env_values = true)]
    pub(super) hints: Option<String>,
    /// Publish all events to a JetStream stream of these servers: nats://HOST (several with commas).
    #[arg(long, value_name = "URL", env = "HODEI_EVENTS", hide_env_values = true)]
    pub(super) events: Option<String>,
    /// Let agents and the other daemons of a shared store reach this daemon at this URL, if it is not where the daemon
    /// listens: http://HOST:PORT [default: the address of --listen].
    #[arg(long, value_name = "URL", env = "HODEI_ADVERTISE")]
    pub(super) advertise: Option<String>,
    /// Use TLS with the certificate chain in this PEM file. It is read for each connection, so a rotation needs no
    /// restart. `hodei-daemon certs` creates a first certificate.
    #[arg(long, value_name = "FILE", env = "HODEI_TLS_CERT")]
    pub(super) tls_cert: Option<PathBuf>,
    /// Use the private key in this PEM file for --tls-cert.
    #[arg(long, value_name = "FILE", env = "HODEI_TLS_KEY")]
    pub(super) tls_key: Option<PathBuf>,
    /// Let the agents of this daemon trust the certificate authorities in this PEM file [default: those of this
    /// machine].
    #[arg(long, value_name = "FILE", env = "HODEI_TLS_CA")]
    pub(super) tls_ca: Option<PathBuf>,
    /// Require a certificate of a certificate authority in this PEM file from all clients and agents.
    #[arg(long, value_name = "FILE", env = "HODEI_TLS_CLIENT_CA")]
    pub(super) tls_client_ca: Option<PathBuf>,
    /// Let the agents of this daemon show the certificate in this PEM file.
    #[arg(long, value_name = "FILE", env = "HODEI_TLS_AGENT_CERT")]
    pub(super) tls_agent_cert: Option<PathBuf>,
    /// Use the private key in this PEM file for --tls-agent-cert.
    #[arg(long, value_name = "FILE", env = "HODEI_TLS_AGENT_KEY")]
    pub(super) tls_agent_key: Option<PathBuf>,
    /// Allow an address that other machines can reach without TLS: anyone on the network can read tokens and jobs.
    #[arg(long, env = "HODEI_INSECURE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(super) insecure: Option<bool>,
    /// Keep jobs in this store: memory:, sqlite:DIR, or postgres://USER:PASSWORD@HOST/DATABASE, which several daemons
    /// can share. Other users can see the command line, so put a password into the file or the environment [default:
    /// sqlite: in the data directory].
    #[arg(long, value_name = "URL", env = "HODEI_STORE", hide_env_values = true)]
    pub(super) store: Option<String>,
    /// Keep the values of secrets in this place: store, which encrypts them, or dir:PATH, which is only read and has a
    /// file PATH/TENANT/NAME for each secret [default: store].
    #[arg(long, value_name = "store|dir:PATH", env = "HODEI_SECRETS")]
    pub(super) secrets: Option<Secrets>,
    /// Encrypt secrets with the keys in this file, which is created if missing: lines of 64 hexadecimal digits, of
    /// which the first is for new secrets. Daemons that share a store need the same keys [default: secrets.key in the
    /// data directory].
    #[arg(long, value_name = "FILE", env = "HODEI_SECRET_KEYS")]
    pub(super) secret_keys: Option<PathBuf>,
    /// Read from this TOML file which jobs may get which secrets: `[[rules]]` with secrets, tenants and labels
    /// [default: a job may get all secrets of its tenant].
    #[arg(long, value_name = "FILE", env = "HODEI_SECRET_POLICY")]
    pub(super) secret_policy: Option<PathBuf>,
    /// Give the workers of this daemon only these secrets, by name or as `prod-*`, several with commas [default: all].
    #[arg(long, value_name = "PATTERN", env = "HODEI_WORKER_SECRETS", value_delimiter = ',')]
    pub(super) worker_secrets: Option<Vec<SecretPattern>>,
    /// Keep artifacts in this place: dir:PATH, s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH, with cloud
    /// credentials from the environment. Daemons that share a store need the same place
    /// [default: artifacts in the data directory with sqlite:, none with postgres:].
    #[arg(long, value_name = "PLACE", env = "HODEI_ARTIFACTS")]
    pub(super) artifacts: Option<String>,
    /// Refuse artifacts of more bytes than this [default: 1073741824].
    #[arg(long, value_name = "BYTES", env = "HODEI_ARTIFACT_LIMIT")]
    pub(super) artifact_limit: Option<u64>,
    /// Set the log level: error, warn, info, debug or trace, or by module as in `warn,hodei_sdk=debug` [default: warn].
    #[arg(long, value_name = "LEVEL", env = "HODEI_LOG_LEVEL")]
    pub(super) log_level: Option<String>,
    /// Wait this long for running jobs at a stop [default: 30s].
    #[arg(long, value_name = "DURATION", env = "HODEI_DRAIN_TIMEOUT")]
    pub(super) drain_timeout: Option<Span>,
    /// Treat jobs that still run after --drain-timeout like this: stop kills them, and they run again at the next
    /// start, free of charge; leave lets them go on in their workers, which wait for the next start or join another
    /// daemon [default: stop; leave with postgres:].
    #[arg(long, value_name = "stop|leave", env = "HODEI_ON_SHUTDOWN")]
    pub(super) on_shutdown: Option<ShutdownMode>,
    /// Run up to N jobs at once in one worker [default: twice the number of cores].
    #[arg(long, value_name = "N", env = "HODEI_SLOTS")]
    pub(super) slots: Option<u32>,
    /// Start up to N workers at once [default: 1].
    #[arg(long, value_name = "N", env = "HODEI_MAX_WORKERS")]
    pub(super) max_workers: Option<u32>,
    /// End a worker that had no job for this time, at least a second [default: 60s].
    #[arg(long, value_name = "DURATION", env = "HODEI_IDLE_TIMEOUT")]
    pub(super) idle_timeout: Option<Span>,
    /// Let an agent keep up to this many bytes of output while its daemon is away. Further output is dropped, and the
    /// log of the job says so [default: 268435456].
    #[arg(long, value_name = "BYTES", env = "HODEI_SPOOL_LIMIT")]
    pub(super) spool_limit: Option<u64>,
    /// Also write the output of each job to a file JOB.ATTEMPT.log in this directory. If that fails, jobs go on without
    /// it. Hodei does not remove old files [default: none].
    #[arg(long, value_name = "DIR", env = "HODEI_JOB_LOG_DIR")]
    pub(super) job_log_dir: Option<PathBuf>,
    /// Create the workspaces of jobs in this directory [default: workspaces in the data directory].
    #[arg(long, value_name = "DIR", env = "HODEI_WORKSPACE_DIR")]
    pub(super) workspace_dir: Option<PathBuf>,
    /// Set the umask of jobs, as a text of octal digits [default: 022].
    #[arg(long, value_name = "MASK", env = "HODEI_JOB_UMASK")]
    pub(super) job_umask: Option<String>,
    /// Set the niceness of jobs, from -20 to 19 [default: that of the daemon].
    #[arg(long, value_name = "N", env = "HODEI_JOB_NICENESS", allow_hyphen_values = true)]
    pub(super) job_niceness: Option<i32>,
    /// Set the `oom_score_adj` of jobs, from -1000 to 1000: the kernel kills processes with a higher value first if
    /// memory runs out [default: 100 above the daemon].
    #[arg(long, value_name = "N", env = "HODEI_JOB_OOM_SCORE_ADJ", allow_hyphen_values = true)]
    pub(super) job_oom_score_adj: Option<i32>,
    /// Treat jobs with limits of memory, processors or processes like this if no control group can be made, for example
    /// without rights to /sys/fs/cgroup: warn runs them without limits and warns at their submit; require refuses them
    /// [default: warn].
    #[arg(long, value_name = "warn|require", env = "HODEI_LIMITS")]
    pub(super) limits: Option<Limits>,
    /// Start this file as hodei-agent [default: hodei-agent in the directory of this program].
    #[arg(long, value_name = "FILE", env = "HODEI_AGENT")]
    pub(super) agent: Option<PathBuf>,
    /// Let an agent end its jobs and itself after this time without a daemon, at least a second [default: 30m].
    #[arg(long, value_name = "DURATION", env = "HODEI_ORPHAN_TIMEOUT")]
    pub(super) orphan_timeout: Option<Span>,
    /// Set the time between two heartbeats of an agent, at least 10ms [default: 5s].
    #[arg(long, value_name = "DURATION", env = "HODEI_HEARTBEAT")]
    pub(super) heartbeat: Option<Span>,
    /// Count a worker as lost after this time without a heartbeat, at least twice --heartbeat [default: 20s].
    #[arg(long, value_name = "DURATION", env = "HODEI_LEASE")]
    pub(super) lease: Option<Span>,
    /// Let the other daemons of a shared store take over the work of this one after this time without a sign of life
    /// [default: 5s].
    #[arg(long, value_name = "DURATION", env = "HODEI_DAEMON_LEASE")]
    pub(super) daemon_lease: Option<Span>,
    /// Keep ended jobs, with their history and output, for this time, at least a minute [default: 7d].
    #[arg(long, value_name = "DURATION", env = "HODEI_HISTORY")]
    pub(super) history: Option<Span>,
}

impl Keys {
    /// Merges the keys of the file into these; these take precedence.
    pub(super) fn over(self, file: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(file.data_dir),
            listen: self.listen.or(file.listen),
            advertise: self.advertise.or(file.advertise),
            hints: self.hints.or(file.hints),
            events: self.events.or(file.events),
            secrets: self.secrets.or(file.secrets),
            secret_keys: self.secret_keys.or(file.secret_keys),
            secret_policy: self.secret_policy.or(file.secret_policy),
            worker_secrets: self.worker_secrets.or(file.worker_secrets),
            artifacts: self.artifacts.or(file.artifacts),
            artifact_limit: self.artifact_limit.or(file.artifact_limit),
            workspace_dir: self.workspace_dir.or(file.workspace_dir),
            spool_limit: self.spool_limit.or(file.spool_limit),
            job_log_dir: self.job_log_dir.or(file.job_log_dir),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            tls_ca: self.tls_ca.or(file.tls_ca),
            tls_client_ca: self.tls_client_ca.or(file.tls_client_ca),
            tls_agent_cert: self.tls_agent_cert.or(file.tls_agent_cert),
            tls_agent_key: self.tls_agent_key.or(file.tls_agent_key),
            insecure: self.insecure.or(file.insecure),
            store: self.store.or(file.store),
            log_level: self.log_level.or(file.log_level),
            drain_timeout: self.drain_timeout.or(file.drain_timeout),
            on_shutdown: self.on_shutdown.or(file.on_shutdown),
            slots: self.slots.or(file.slots),
            max_workers: self.max_workers.or(file.max_workers),
            idle_timeout: self.idle_timeout.or(file.idle_timeout),
            job_umask: self.job_umask.or(file.job_umask),
            job_niceness: self.job_niceness.or(file.job_niceness),
            job_oom_score_adj: self.job_oom_score_adj.or(file.job_oom_score_adj),
            limits: self.limits.or(file.limits),
            agent: self.agent.or(file.agent),
            orphan_timeout: self.orphan_timeout.or(file.orphan_timeout),
            heartbeat: self.heartbeat.or(file.heartbeat),
            lease: self.lease.or(file.lease),
            daemon_lease: self.daemon_lease.or(file.daemon_lease),
            history: self.history.or(file.history),
        }
    }
}

/// Value of `on_shutdown`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ShutdownMode(pub(super) OnShutdown);

impl FromStr for ShutdownMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for ShutdownMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Value of `limits`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Limits(pub(super) LimitPolicy);

impl FromStr for Limits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for Limits {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Value of `secrets`: where the values of secrets are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Secrets {
    /// In the store, encrypted.
    Store,
    /// In files below this directory.
    Directory(PathBuf),
}

impl FromStr for Secrets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "store" => Ok(Self::Store),
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Directory(path.into())),
            _ => Err(format!("`{text}` is not a valid place for secrets: write store or dir:PATH")),
        }
    }
}

impl TryFrom<String> for Secrets {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A duration with a unit, such as `500ms`, `1.5s`, `2m`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Span(pub(super) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_duration(text).map(Self).map_err(|error| error.to_string())
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
