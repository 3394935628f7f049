use std::path::PathBuf;
use std::time::Duration;

/// The numbers a platform runs by; the defaults suit a service.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Between two heartbeats of an agent; 5 s.
    pub heartbeat: Duration,
    /// A worker whose heartbeats stop for this long is lost; 20 s. At least twice the heartbeat.
    pub lease: Duration,
    /// A daemon that says nothing for this long is dead, and others take over what it did; 5 s. It matters where daemons
    /// share a store.
    pub daemon_lease: Duration,
    /// An attempt that has a free slot should start within this; 10 s.
    pub dispatch_timeout: Duration,
    /// An ordered worker should connect within this; 60 s.
    pub provision_timeout: Duration,
    /// A lost worker's jobs wait at most this long for it to be destroyed; 10 s.
    pub destroy_timeout: Duration,
    /// A shutdown waits this long for running jobs; 30 s.
    pub drain_timeout: Duration,
    /// What a shutdown does with what still runs then; it is stopped.
    pub on_shutdown: OnShutdown,
    /// Between two looks at the store for what a lost hint left behind; 1 s. `None` never looks.
    pub sweep: Option<Duration>,
    /// What ended is kept this long, with its history and its output; 7 days.
    pub history: Duration,
    /// The beginning of the output of one attempt that is kept, in bytes; 1 GiB. Of what is beyond it the last 16 MiB are
    /// kept too, but no more than of the beginning; a gap record between them says how many bytes are missing.
    pub log_limit: u64,
    /// What becomes of jobs with limits of memory, processors or processes where no worker can hold them to those; they run.
    pub limits: LimitPolicy,
    /// The longest artifact, in bytes; 1 GiB. A job that leaves a longer one fails.
    pub artifact_limit: u64,
}

/// What becomes of a job with limits where no worker can hold it to those: where none can make control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LimitPolicy {
    /// It runs, its limits say only what its worker must have, and whoever submits it is told.
    #[default]
    Warn,
    /// It is refused.
    Require,
}

impl std::str::FromStr for LimitPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "warn" => Ok(Self::Warn),
            "require" => Ok(Self::Require),
            _ => Err(format!("`{text}` is neither warn nor require")),
        }
    }
}

/// What becomes of running jobs when a platform shuts down and they do not end in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnShutdown {
    /// They are killed, and run again with the next start; nobody pays for it.
    #[default]
    Stop,
    /// They go on in their workers, which look for the platform of the next start. Workers in this process cannot.
    Leave,
}

impl std::str::FromStr for OnShutdown {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stop" => Ok(Self::Stop),
            "leave" => Ok(Self::Leave),
            _ => Err(format!("`{text}` is neither stop nor leave")),
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
    /// Short waits, for tests: heartbeats each 250 ms and a lease of one second.
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

/// Where a daemon keeps its token and its jobs when nobody says otherwise, and where its clients look for the token:
/// `$XDG_STATE_HOME/hodei`, else `~/.local/state/hodei`, else `/var/lib/hodei`.
pub fn default_data_dir() -> PathBuf {
    let dir = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = dir("XDG_STATE_HOME").or_else(|| Some(dir("HOME")?.join(".local/state")));
    state.unwrap_or_else(|| "/var/lib".into()).join("hodei")
}
