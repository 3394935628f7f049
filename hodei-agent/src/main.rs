//! The `hodei-agent` program: one worker, which takes jobs from a platform and runs them as child processes.

use std::io::Read;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use hodei_agent::TlsFiles;
use hodei_agent::{
    Agent, AgentConfig, AgentStop, Children, Compression, FileLogger, GrpcConnector, JobExecutor, Left,
    Marks, Orphanage, SignalListener, SpoolConfig, StartState, SystemClock, Workspaces,
    raise_descriptor_limit,
};
use hodei_core::id::StoreId;
use hodei_core::job::{JobResources, Labels};
use hodei_core::port::{Clock, ClockExt};
use hodei_core::worker::{LimitHold, worker_of};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::signal::unix::SignalKind;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use uuid::Uuid;

/// Runs jobs for a platform, as one of its workers.
#[derive(Debug, Parser)]
#[command(name = "hodei-agent", version, about)]
struct Args {
    /// The address of the platform, `https://HOST:PORT`, `http://HOST:PORT` or `unix:PATH`; several are tried in turn.
    #[arg(long, value_name = "URL", env = "HODEI_AGENT_SERVER", value_delimiter = ',', required = true)]
    server: Vec<String>,
    /// A file with the current addresses of the platform, read before each connection and tried first: a platform that
    /// restarts at another address writes it there.
    #[arg(long, value_name = "FILE")]
    server_file: Option<PathBuf>,
    /// The authorities that sign the platform's certificates, as a PEM file [default: those that this machine trusts].
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The client certificate of this agent, as a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of that certificate, as a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The file with the bootstrap token, or `-` for standard input.
    #[arg(long, value_name = "FILE|-", default_value = "-")]
    token_file: PathBuf,
    /// The owner of the jobs, marked on every process.
    #[arg(long, value_name = "ID")]
    owner: StoreId,
    /// The provider that created this worker, marked on every process.
    #[arg(long, value_name = "NAME", default_value = "process")]
    provider: String,
    /// Number of concurrent jobs.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    slots: u32,
    /// Number of jobs that may wait here beyond the slots.
    #[arg(long, value_name = "N", default_value_t = 1)]
    prefetch: u32,
    /// Processor time that all jobs together may request, in thousandths of a core.
    #[arg(long, value_name = "MILLIS", default_value_t = 0)]
    cpu_millis: u32,
    /// Memory that all jobs together may request, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    memory_bytes: u64,
    /// The directory for output that waits while the platform is away.
    #[arg(long, value_name = "DIR", default_value = "/tmp")]
    spool_dir: PathBuf,
    /// Maximum amount of waiting output, in bytes; the rest is dropped, and the log says so.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20)]
    spool_limit: u64,
    /// The directory of the workspaces of jobs, one subdirectory each.
    #[arg(long, value_name = "DIR", default_value = "/tmp")]
    workspace_dir: PathBuf,
    /// Also write the output of each job to a file in this directory, JOB.ATTEMPT.log; if that fails, the job goes on
    /// without the file.
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// Maximum length of each of those files, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    log_limit: u64,
    /// Compress output sent to the platform: auto compresses to another machine only, and only output that gets
    /// shorter.
    #[arg(long, value_name = "auto|always|never", default_value = "auto")]
    compress: Compression,
    /// The file mode creation mask of jobs, in octal digits.
    #[arg(long, value_name = "MASK", default_value = "022", value_parser = StartState::parse_umask)]
    job_umask: u32,
    /// The niceness of jobs [default: that of this program].
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-20..=19))]
    job_niceness: Option<i32>,
    /// The OOM score adjustment of jobs: the higher, the sooner the kernel kills them for lack of memory [default: 100
    /// above this program].
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    job_oom_score_adj: Option<i32>,
    /// Seconds without contact to the platform after which the agent ends its jobs and itself.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    orphan_timeout: u64,
    /// A file that holds the reason while the platform cannot be reached.
    #[arg(long, value_name = "FILE")]
    trouble_file: Option<PathBuf>,
    /// Only check the connection to the platform: exits with 0 if it works, with 3 if the certificate is not trusted,
    /// with 4 if the platform cannot be reached, and prints the reason.
    #[arg(long)]
    check: bool,
    /// The soft limit of open files for this agent and its jobs [default: inherited].
    #[arg(long, value_name = "N")]
    soft_files: Option<u64>,
}

/// How long the exit waits for the removal of workspaces: the provider removes the rest.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Exit code of a failure of the agent itself.
const FAILURE_EXIT_CODE: u8 = 125;
/// Timeout of `--check`.
const CHECK_TIMEOUT: Duration = Duration::from_secs(8);
/// Exit code of a check whose server has an untrusted certificate.
const NOT_TRUSTED_EXIT_CODE: u8 = 3;
/// Exit code of a check that reached no server.
const NOT_REACHED_EXIT_CODE: u8 = 4;
/// This program, even after its file was replaced.
const OWN_PROGRAM: &str = "/proc/self/exe";

fn main() -> ExitCode {
    hodei_agent::wait_for_children();
    if let Some(failed) = hodei_agent::exec_in() {
        return failed;
    }
    let args = Args::parse();
    if let Some(limit) = args.soft_files {
        // The daemon that started this agent raised its own limit. The agent can run with the raised one too.
        let _ = set_soft_files(limit);
    }
    let filter = std::env::var("HODEI_LOG").ok().and_then(|filter| filter.parse().ok());
    let filter: Targets = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = runtime.and_then(|runtime| {
        let done = if args.check {
            runtime.block_on(check(args)).map(Err)
        } else {
            runtime.block_on(run(args)).map(Ok)
        };
        runtime.shutdown_timeout(REMOVAL_TIMEOUT);
        done
    });
    match done {
        Ok(Err(checked)) => checked,
        Ok(Ok(Left::Drained)) => ExitCode::SUCCESS,
        Ok(Ok(Left::Gone)) => ExitCode::from(1),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "hodei-agent: {error}");
            ExitCode::from(FAILURE_EXIT_CODE)
        }
    }
}

async fn check(args: Args) -> std::io::Result<ExitCode> {
    let tls = TlsFiles { ca: args.tls_ca, cert: args.tls_cert, key: args.tls_key };
    let connector = GrpcConnector::new(args.server, String::new(), Uuid::nil()).with_tls(tls);
    let checked = SystemClock::default().timeout(CHECK_TIMEOUT, connector.check()).await;
    let why = match checked {
        Ok(Ok(())) => {
            let _ = writeln!(std::io::stdout(), "hodei-agent reaches its server");
            return Ok(ExitCode::SUCCESS);
        }
        Ok(Err(error)) => error.to_string(),
        Err(elapsed) => elapsed.to_string(),
    };
    let _ = write!(std::io::stdout(), "{why}");
    Ok(ExitCode::from(if why.contains("certificate") {
        NOT_TRUSTED_EXIT_CODE
    } else {
        NOT_REACHED_EXIT_CODE
    }))
}

async fn run(args: Args) -> std::io::Result<Left> {
    let token = read_token(&args.token_file)?;
    let worker = worker_of(&token).ok_or_else(|| {
        std::io::Error::other("the bootstrap token is malformed: it must begin with the id of its worker")
    })?;
    let clock = Arc::new(SystemClock::default());
    let tls = TlsFiles { ca: args.tls_ca, cert: args.tls_cert, key: args.tls_key };
    let connector = GrpcConnector::new(args.server, token, nonce()?).with_tls(tls);
    let connector = connector.with_server_file(args.server_file).with_trouble_file(args.trouble_file);
    let connector = Arc::new(connector.with_compression(args.compress));
    let marks = Marks::new(args.owner, &args.provider, worker);
    let journal = marks.journal(&args.workspace_dir);
    let executor = JobExecutor::new(clock.clone(), marks);
    let workspaces = Workspaces { dir: args.workspace_dir, only_if_needed: false };
    let descriptors = raise_descriptor_limit(args.slots);
    let state = StartState {
        umask: args.job_umask,
        niceness: args.job_niceness,
        oom_score_adj: args.job_oom_score_adj,
        open_files: descriptors.original,
    };
    let executor = executor.with_helper(OWN_PROGRAM).with_workspaces(workspaces).with_start_state(state);
    let executor = match args.log_dir {
        Some(dir) => executor.with_file_logger(FileLogger { dir, limit: args.log_limit }),
        None => executor,
    };
    log_shortcomings(&executor, args.slots, descriptors.slots);
    let config = AgentConfig {
        slots: descriptors.slots,
        prefetch: args.prefetch,
        resources: JobResources {
            cpu_millis: args.cpu_millis,
            memory_bytes: args.memory_bytes,
            ..JobResources::default()
        },
        labels: Labels::from([LimitHold::from(executor.holds_limits()).label()]),
        orphan_timeout: Duration::from_secs(args.orphan_timeout),
        spool: Some(SpoolConfig { dir: args.spool_dir, limit: args.spool_limit }),
        journal: Some(journal.clone()),
        metrics: true,
        seed: worker.as_uuid().as_u64_pair().1,
        ..AgentConfig::default()
    };
    let children = executor.children();
    let agent = Agent::new(config, connector.clone(), Arc::new(executor), clock.clone());
    let left = work(agent, children, &*clock).await?;
    if left == Left::Drained {
        // No attempt is open, so the journal has no reader.
        let _ = std::fs::remove_file(journal);
    }
    if left == Left::Gone
        && let Err(error) = connector.leave().await
    {
        tracing::debug!(%error, "cannot tell the platform that the worker leaves");
    }
    Ok(left)
}

/// Runs the agent until it leaves, and ends every process that its jobs left behind.
async fn work(agent: Agent, children: Children, clock: &dyn Clock) -> std::io::Result<Left> {
    let stop = AgentStop::default();
    let mut signals = Signals::new()?;
    let mut work = std::pin::pin!(agent.run(stop.clone()));
    let mut orphans = Orphanage::open(children)?;
    let left = loop {
        tokio::select! {
            biased;
            left = &mut work => break left,
            () = orphans.run(clock) => {}
            () = signals.asked() => escalate(&stop),
        }
    };
    // All jobs are over, so every process that they left behind must end.
    orphans.close(clock).await;
    Ok(left)
}

/// Logs the limits that this machine cannot enforce and the slots that it has no descriptors for.
fn log_shortcomings(executor: &JobExecutor, wanted: u32, slots: u32) {
    if !executor.holds_limits() {
        tracing::info!(
            "limits of memory, processors and processes are not enforced: no control group can be made"
        );
    }
    if slots < wanted {
        tracing::warn!(
            wanted,
            slots,
            "this agent runs fewer jobs at once: the hard limit of open files (ulimit -Hn) has no room for more"
        );
    }
}

/// The signals of an agent. TERM, INT and QUIT ask it to end. HUP, USR1, USR2, and XFSZ at a file size limit, would end
/// the agent and its jobs by default; they are handled and have no effect. INT and these stay ignored if the agent was
/// started to ignore them. TERM and QUIT do not: the daemon asks by them.
struct Signals {
    ending: [SignalListener; 3],
    /// Handled to disable their default action.
    _passed_over: [SignalListener; 4],
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let on = |kind: SignalKind| SignalListener::new(kind.as_raw_value());
        let always = |kind: SignalKind| SignalListener::always(kind.as_raw_value());
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        let (user1, user2) = (SignalKind::user_defined1(), SignalKind::user_defined2());
        let file_size = SignalListener::new(Signal::XFSZ.as_raw())?;
        Ok(Self {
            ending: [always(terminate)?, on(interrupt)?, always(SignalKind::quit())?],
            _passed_over: [on(SignalKind::hangup())?, on(user1)?, on(user2)?, file_size],
        })
    }

    /// Waits for a signal that asks the agent to end. Cancel safe.
    async fn asked(&mut self) {
        let [terminate, interrupt, quit] = &mut self.ending;
        tokio::select! { biased; () = terminate.recv() => {}, () = interrupt.recv() => {}, () = quit.recv() => {} }
    }
}

/// Escalates with each signal: the first drains, the second stops the running jobs, the third ends the agent at once.
fn escalate(stop: &AgentStop) {
    if !stop.drain.is_cancelled() {
        stop.drain.cancel();
    } else if !stop.evict.is_cancelled() {
        stop.evict.cancel();
    } else {
        stop.kill.cancel();
    }
}

fn read_token(path: &std::path::Path) -> std::io::Result<String> {
    let mut text = String::new();
    let wrap =
        |error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if path == std::path::Path::new("-") {
        std::io::stdin().take(4096).read_to_string(&mut text).map_err(wrap)?;
    } else {
        std::fs::File::open(path).and_then(|file| file.take(4096).read_to_string(&mut text)).map_err(wrap)?;
    }
    Ok(text.trim().to_owned())
}

fn set_soft_files(limit: u64) -> std::io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum })?)
}

/// Returns a number that distinguishes this process from another with the same token.
fn nonce() -> std::io::Result<Uuid> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(Uuid::from_bytes(bytes))
}
