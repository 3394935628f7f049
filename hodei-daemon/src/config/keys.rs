//! The keys themselves, and the forms of their values.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use hodei_sdk::secret::SecretPattern;
use hodei_sdk::time::parse_duration;
use hodei_sdk::{LimitPolicy, OnShutdown};
use serde::Deserialize;

use crate::listen::Listen;

/// One key each: `--drain-timeout`, `HODEI_DRAIN_TIMEOUT`, `drain_timeout`.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Keys {
    /// Where the token, and by default the jobs, are kept; made when missing
    /// [default: $XDG_STATE_HOME/hodei, or ~/.local/state/hodei].
    #[arg(long, value_name = "DIR", env = "HODEI_DATA_DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Where clients and agents come in: IP:PORT, where a port of 0 takes one that is free, or unix:PATH
    /// [default: 127.0.0.1:7443].
    #[arg(long, value_name = "ADDR", env = "HODEI_LISTEN")]
    pub(super) listen: Option<Listen>,
    /// Where daemons that share a database tell each other what happened, where the store's URL leads to a pooler:
    /// postgres://HOST/DATABASE, nats://HOST (several with commas), or none, which is slower [default: the database of
    /// the store].
    #[arg(long, value_name = "URL", env = "HODEI_HINTS", hide_env_values = true)]
    pub(super) hints: Option<String>,
    /// Hand all events on to others by a JetStream stream of these servers: nats://HOST (several with commas).
    #[arg(long, value_name = "URL", env = "HODEI_EVENTS", hide_env_values = true)]
    pub(super) events: Option<String>,
    /// Where agents and the other daemons of a shared store reach this one, when that is not where it listens:
    /// http://HOST:PORT [default: where it listens].
    #[arg(long, value_name = "URL", env = "HODEI_ADVERTISE")]
    pub(super) advertise: Option<String>,
    /// Talk TLS with this certificate chain, a PEM file. It is looked at with each connection: what is rotated needs no
    /// restart. `hodei-daemon certs` makes a first one.
    #[arg(long, value_name = "FILE", env = "HODEI_TLS_CERT")]
    pub(super) tls_cert: Option<PathBuf>,
    /// The key of the certificate, a PEM file.
    #[arg(long, value_name = "FILE", env = "HODEI_TLS_KEY")]
    pub(super) tls_key: Option<PathBuf>,
    /// Who signs the certificates of the daemons, for the agents of this one [default: those that this machine trusts].
    #[arg(long, value_name = "FILE", env = "HODEI_TLS_CA")]
    pub(super) tls_ca: Option<PathBuf>,
    /// Let nobody in, client or agent, who has no certificate that one of these signed.
    #[arg(long, value_name = "FILE", env = "HODEI_TLS_CLIENT_CA")]
    pub(super) tls_client_ca: Option<PathBuf>,
    /// The certificate that the agents of this daemon show.
    #[arg(long, value_name = "FILE", env = "HODEI_TLS_AGENT_CERT")]
    pub(super) tls_agent_cert: Option<PathBuf>,
    /// The key of that.
    #[arg(long, value_name = "FILE", env = "HODEI_TLS_AGENT_KEY")]
    pub(super) tls_agent_key: Option<PathBuf>,
    /// Listen on an address that others reach, without TLS: whoever is on the network can read tokens and jobs.
    #[arg(long, env = "HODEI_INSECURE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(super) insecure: Option<bool>,
    /// memory:, sqlite:DIR, or postgres://USER:PASSWORD@HOST/DATABASE, which other daemons may share; others see what
    /// the command line says, so let the file or the environment have a password
    /// [default: sqlite: in the data directory].
    #[arg(long, value_name = "URL", env = "HODEI_STORE", hide_env_values = true)]
    pub(super) store: Option<String>,
    /// Where the values of secrets are: store, which seals them, or dir:PATH, which has a file PATH/TENANT/NAME for each
    /// and is only read [default: store].
    #[arg(long, value_name = "store|dir:PATH", env = "HODEI_SECRETS")]
    pub(super) secrets: Option<Secrets>,
    /// The file with the keys that seal secrets, a line of 64 hexadecimal digits each, the first for new ones; made when
    /// missing. Daemons that share a store share the keys [default: secrets.key in the data directory].
    #[arg(long, value_name = "FILE", env = "HODEI_SECRET_KEYS")]
    pub(super) secret_keys: Option<PathBuf>,
    /// A TOML file that says which jobs may have which secrets: `[[rules]]` with secrets, tenants and labels
    /// [default: each those of its tenant].
    #[arg(long, value_name = "FILE", env = "HODEI_SECRET_POLICY")]
    pub(super) secret_policy: Option<PathBuf>,
    /// The secrets that the workers of this daemon may be given, by name or as `prod-*`, several with commas
    /// [default: all].
    #[arg(long, value_name = "PATTERN", env = "HODEI_WORKER_SECRETS", value_delimiter = ',')]
    pub(super) worker_secrets: Option<Vec<SecretPattern>>,
    /// Where artifacts are kept: dir:PATH, s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH; who signs in to a
    /// cloud comes from the environment. Daemons that share a store share it
    /// [default: artifacts in the data directory with sqlite:, none with postgres:].
    #[arg(long, value_name = "PLACE", env = "HODEI_ARTIFACTS")]
    pub(super) artifacts: Option<String>,
    /// The longest artifact, in bytes [default: 1073741824].
    #[arg(long, value_name = "BYTES", env = "HODEI_ARTIFACT_LIMIT")]
    pub(super) artifact_limit: Option<u64>,
    /// error, warn, info, debug or trace, or by module as in `warn,hodei_sdk=debug` [default: warn].
    #[arg(long, value_name = "LEVEL", env = "HODEI_LOG_LEVEL")]
    pub(super) log_level: Option<String>,
    /// How long a stop waits for running jobs [default: 30s].
    #[arg(long, value_name = "DURATION", env = "HODEI_DRAIN_TIMEOUT")]
    pub(super) drain_timeout: Option<Span>,
    /// What becomes of jobs that still run then: stop kills them, and they run again with the next start at no cost;
    /// leave lets them go on in their workers, which wait for the next start or go to another daemon
    /// [default: stop; leave with postgres:].
    #[arg(long, value_name = "stop|leave", env = "HODEI_ON_SHUTDOWN")]
    pub(super) on_shutdown: Option<Ending>,
    /// Jobs at once in one worker [default: twice the number of cores].
    #[arg(long, value_name = "N", env = "HODEI_SLOTS")]
    pub(super) slots: Option<u32>,
    /// Workers at once [default: 1].
    #[arg(long, value_name = "N", env = "HODEI_MAX_WORKERS")]
    pub(super) max_workers: Option<u32>,
    /// A worker without a job leaves after this long, a second at least [default: 60s].
    #[arg(long, value_name = "DURATION", env = "HODEI_IDLE_TIMEOUT")]
    pub(super) idle_timeout: Option<Span>,
    /// How much output an agent keeps while it has no daemon, in bytes; what is beyond it is dropped, and the log of the
    /// job says so [default: 268435456].
    #[arg(long, value_name = "BYTES", env = "HODEI_SPOOL_LIMIT")]
    pub(super) spool_limit: Option<u64>,
    /// Write the output of each job to a file there too, JOB.ATTEMPT.log; where that fails, jobs go on without it. What
    /// is old is yours to remove [default: none].
    #[arg(long, value_name = "DIR", env = "HODEI_JOB_LOG_DIR")]
    pub(super) job_log_dir: Option<PathBuf>,
    /// Where jobs have their workspaces, a directory for each [default: workspaces in the data directory].
    #[arg(long, value_name = "DIR", env = "HODEI_WORKSPACE_DIR")]
    pub(super) workspace_dir: Option<PathBuf>,
    /// The file mode creation mask of jobs, in octal digits, as a text [default: 022].
    #[arg(long, value_name = "MASK", env = "HODEI_JOB_UMASK")]
    pub(super) job_umask: Option<String>,
    /// The niceness of jobs, -20 to 19 [default: that of the daemon].
    #[arg(long, value_name = "N", env = "HODEI_JOB_NICENESS", allow_hyphen_values = true)]
    pub(super) job_niceness: Option<i32>,
    /// How much sooner the kernel ends a process of a job for want of memory, -1000 to 1000 [default: 100 above the daemon].
    #[arg(long, value_name = "N", env = "HODEI_JOB_OOM_SCORE_ADJ", allow_hyphen_values = true)]
    pub(super) job_oom_score_adj: Option<i32>,
    /// What becomes of jobs with limits of memory, processors or processes where no control group can be made, as without
    /// rights to /sys/fs/cgroup: warn runs them without, and tells whoever submits them; require refuses them
    /// [default: warn].
    #[arg(long, value_name = "warn|require", env = "HODEI_LIMITS")]
    pub(super) limits: Option<Limits>,
    /// The program hodei-agent [default: the one beside this program].
    #[arg(long, value_name = "FILE", env = "HODEI_AGENT")]
    pub(super) agent: Option<PathBuf>,
    /// Without the daemon for this long, an agent ends its jobs and itself, a second at least [default: 30m].
    #[arg(long, value_name = "DURATION", env = "HODEI_ORPHAN_TIMEOUT")]
    pub(super) orphan_timeout: Option<Span>,
    /// Between two heartbeats of an agent, 10ms at least [default: 5s].
    #[arg(long, value_name = "DURATION", env = "HODEI_HEARTBEAT")]
    pub(super) heartbeat: Option<Span>,
    /// A worker whose heartbeats stop for this long is lost; at least twice the heartbeat [default: 20s].
    #[arg(long, value_name = "DURATION", env = "HODEI_LEASE")]
    pub(super) lease: Option<Span>,
    /// Daemons that share a store take over what one of them did when it says nothing for this long [default: 5s].
    #[arg(long, value_name = "DURATION", env = "HODEI_DAEMON_LEASE")]
    pub(super) daemon_lease: Option<Span>,
    /// What ended is kept this long, with its history and its output, a minute at least [default: 7d].
    #[arg(long, value_name = "DURATION", env = "HODEI_HISTORY")]
    pub(super) history: Option<Span>,
}

impl Keys {
    /// These, and where one is missing the other's.
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

/// What a stop does with what runs.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Ending(pub(super) OnShutdown);

impl FromStr for Ending {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for Ending {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// What becomes of limits that cannot be held.
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

/// Where the values of secrets are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Secrets {
    /// In the store, sealed.
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
            _ => Err(format!("`{text}` is no place for secrets: write store or dir:PATH")),
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
