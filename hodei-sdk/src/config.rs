//! Settings of a platform, and the default data directory.

use std::path::PathBuf;
use std::time::Duration;

/// Timings and limits of a platform; the defaults suit a service.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Interval between two heartbeats of an agent; 5 s.
    pub heartbeat: Duration,
    /// Time without a heartbeat after which a worker is lost; 20 s. At least twice the heartbeat.
    pub lease: Duration,
    /// Time without a sign of life after which a daemon counts as dead and other daemons take over its work; 5 s. It
    /// matters only where daemons share a store.
    pub daemon_lease: Duration,
    /// Time within which an attempt that has a free slot should start; 10 s.
    pub dispatch_timeout: Duration,
    /// Time within which a provisioned worker should connect; 60 s.
    pub provision_timeout: Duration,
    /// Longest time that a lost worker's jobs wait for it to be destroyed; 10 s.
    pub destroy_timeout: Duration,
    /// Longest time that a shutdown waits for running jobs; 30 s.
    pub drain_timeout: Duration,
    /// How a shutdown treats jobs that still run after `drain_timeout`; they are stopped.
    pub on_shutdown: OnShutdown,
    /// Interval between two scans of the store for work whose hint was lost; 1 s. `None` never scans.
    pub sweep: Option<Duration>,
    /// Time that an ended job is kept, with its history and its output; 7 days.
    pub history: Duration,
    /// Bytes kept from the start of an attempt's output; 1 GiB. Of the rest, the last 16 MiB are kept too, but never
    /// more than this limit; a gap record between the two gives the number of missing bytes.
    pub log_limit: u64,
    /// How jobs with limits of memory, processors or processes are treated where no worker can enforce them; they run.
    pub limits: LimitPolicy,
    /// Maximum size of an artifact, in bytes; 1 GiB. A job that leaves a larger one fails.
    pub artifact_limit: u64,
}

/// Treatment of a job with limits where no worker can enforce them because none can create control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LimitPolicy {
    /// It runs; its limits only select a worker with enough resources, and the submitter is warned.
    #[default]
    Warn,
    /// It is rejected.
    Require,
}

impl std::str::FromStr for LimitPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "warn" => Ok(Self::Warn),
            "require" => Ok(Self::Require),
            _ => Err(format!("`{text}` is not a valid limit policy: use warn or require")),
        }
    }
}

/// Treatment of jobs that still run when the drain timeout of a shutdown expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnShutdown {
    /// They are killed and run again at the next start; this does not count against their retries.
    #[default]
    Stop,
    /// They keep running in their workers, which reconnect to the platform at its next start. Workers in this process
    /// cannot.
    Leave,
}

impl std::str::FromStr for OnShutdown {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stop" => Ok(Self::Stop),
            "leave" => Ok(Self::Leave),
            _ => Err(format!("`{text}` is not a valid shutdown mode: use stop or leave")),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            lease: Duration::from_secs(20),
            daemon_lease: Duration::from_secs(5),
            dispatch_timeout: Duration::from_secs(10),
            provision_timeout: Duration::from_secs(60),
            destroy_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            on_shutdown: OnShutdown::Stop,
            sweep: Some(Duration::from_secs(1)),
            history: Duration::from_secs(7 * 24 * 3600),
            log_limit: 1 << 30,
            limits: LimitPolicy::Warn,
            artifact_limit: 1 << 30,
        }
    }
}

impl Settings {
    /// Short timeouts for tests: a heartbeat every 250 ms and a lease of one second.
    pub fn quick() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            lease: Duration::from_secs(1),
            daemon_lease: Duration::from_secs(1),
            dispatch_timeout: Duration::from_secs(2),
            provision_timeout: Duration::from_secs(5),
            destroy_timeout: Duration::from_secs(2),
            ..Self::default()
        }
    }
}

/// Returns the default data directory, where a daemon keeps its token and its jobs and where its clients look for the
/// token: `$XDG_STATE_HOME/hodei`, else `~/.local/state/hodei`, else `/var/lib/hodei`.
pub fn default_data_dir() -> PathBuf {
    let dir = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = dir("XDG_STATE_HOME").or_else(|| Some(dir("HOME")?.join(".local/state")));
    state.unwrap_or_else(|| "/var/lib".into()).join("hodei")
}
