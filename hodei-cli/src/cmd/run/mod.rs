//! `hodei run`: runs one job in this process or by a daemon, and passes on its output and its exit code.

pub(crate) mod guard;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Args;
use hodei_sdk::{Hodei, Job, JobHandle, JobStatus, MemoryLogStore, Settings};

use self::guard::Guard;
use crate::cmd::job::submit::tell_found;
use crate::data_dir::{give_up, leave};
use crate::error::CliError;
use crate::exit;
use crate::job_json::job_json;
use crate::limits;
use crate::spec_args::{SpecArgs, in_this_directory};
use crate::target::{Target, here, here_of, store_url};
use crate::term::interrupts::{Interrupts, sleep};
use crate::term::job_output::Writer;
use crate::term::show::{Format, tell, visible};

/// Output in bytes that is buffered for a slow reader; beyond it the job has to wait.
const OUTPUT_BUFFER_BYTES: usize = 16 << 20;
/// Time for a job to start, after which the reasons why no worker comes are reported. Doubles with each query.
const START_REPORT_DELAY: Duration = Duration::from_secs(2);
/// Time for the last output of an interrupted run to be written.
const OUTPUT_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Options of `hodei run`.
#[derive(Debug, Args)]
#[command(after_help = "EXIT CODES:
  the job's own, 128 + n if signal n killed the job, 1 an artifact is missing, 124 timeout, 125 Hodei itself failed,
  126 not executable, 127 not found, 129 hung up, 130 interrupted, 131 quit, 141 output closed, 143 terminated

ENVIRONMENT:
  A job gets PATH HOME USER LANG TZ TMPDIR, what --env adds, HODEI_JOB_ID, HODEI_ATTEMPT, HODEI_OWNER and
  HODEI_WORKER_ID, HODEI_WORKSPACE if it has a workspace, and HODEI_SECRETS_DIR with --secret. Nothing else of the
  caller's environment is passed on.

WORKSPACE:
  A job of a daemon runs in its own directory, which is removed with the job. Without a daemon, a job runs in the
  current directory as a child of this program, unless a relative --cwd, --input, --artifact or --keep-workspace needs
  a workspace. A job of a data directory runs in the directory from which it was submitted, even if a later command
  continues it. TMPDIR is always a directory of the job's own.

OUTPUT:
  The job's output is printed as the job writes it. With --output json it goes to stderr, and one JSON object is
  printed on stdout at the end.

EXAMPLES:
  hodei run -- echo hello
  hodei run --data-dir ./jobs -- make    # kept: see `hodei job list --data-dir ./jobs`
  hodei run --timeout 1.5s --retries 2 -- ./flaky --once
  hodei run --shell 'ls | wc -l'
  printf 'one\\ntwo\\n' | hodei run --stdin - -- wc -l")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    spec: SpecArgs,
    /// Keep the job, its history and its output in this directory, which is created if missing. Other open jobs in it
    /// run too, and have 30 s to end after this one.
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    data_dir: Option<PathBuf>,
}

/// Runs one job and returns the exit code.
pub(crate) async fn run(target: &Target, format: Format, args: RunArgs) -> Result<u8, CliError> {
    let data_dir = args.data_dir;
    // Before the signal handlers are installed: until the job exists, Ctrl-C ends this program as usual.
    let spec = args.spec.spec()?;
    let spec = if data_dir.is_some() { in_this_directory(spec) } else { spec };
    let daemon = if data_dir.is_none() { target.named().await? } else { None };
    let mut interrupts = Interrupts::new().map_err(CliError::Runtime)?;
    if let Some(daemon) = daemon {
        return follow(&daemon, spec, format, &mut interrupts, JobHost::Daemon).await;
    }
    let Some(dir) = data_dir else {
        let mut settings = Settings::default();
        // At the shutdown the job has ended, or two interrupts asked to stop it.
        settings.drain_timeout = Duration::ZERO;
        // Output is passed on at once, and not kept.
        settings.log_limit = u64::MAX;
        let logs = Arc::new(MemoryLogStore::paced(OUTPUT_BUFFER_BYTES));
        if !spec.outputs().is_empty() {
            return Err(CliError::NotKept);
        }
        if !spec.secrets().is_empty() {
            return Err(CliError::NoSecretsHere);
        }
        return run_here(logs, settings, spec, format, &mut interrupts).await;
    };
    let hodei = here().url(store_url(&dir)).start().await?;
    let followed = tokio::select! {
        biased;
        code = follow(&hodei, spec, format, &mut interrupts, JobHost::ThisProcess) => Some(code),
        () = hodei.stopped() => None,
    };
    // The reason of the stop may have ended `follow` first.
    let has_stopped =
        tokio::select! { biased; () = hodei.stopped() => true, () = std::future::ready(()) => false };
    let Some(code) = followed.filter(|code| code.is_ok() || !has_stopped) else {
        return Err(give_up(hodei).await);
    };
    leave(hodei, &dir, &mut interrupts).await;
    code
}

/// Runs the job with a store in memory. No later start knows of the processes that a kill of this process leaves, so a
/// guard process ends them.
async fn run_here(
    logs: Arc<MemoryLogStore>,
    settings: Settings,
    spec: hodei_sdk::JobSpec,
    format: Format,
    interrupts: &mut Interrupts,
) -> Result<u8, CliError> {
    // The guard loads while the platform starts.
    let guard = tokio::task::spawn_blocking(Guard::start);
    let owner = Arc::new(OnceLock::new());
    let hodei = here_of(owner.clone()).log_store(logs).settings(settings).start().await?;
    let guard = guard.await.map_err(std::io::Error::other).and_then(|guard| {
        let mut guard = guard?;
        owner.get().map_or(Ok(()), |owner| guard.tell(*owner))?;
        Ok(guard)
    });
    if let Err(error) = &guard {
        tell(format_args!(
            "the guard process cannot be started, so the job would outlive a kill -9 of this program: {error}"
        ));
    }
    let code = follow(&hodei, spec, format, interrupts, JobHost::ThisProcess).await;
    hodei.shutdown().await;
    if let Ok(guard) = guard {
        guard.dismiss();
    }
    code
}

/// Where a job runs. A job of a daemon goes on when this command stops waiting for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JobHost {
    /// The job ends with the platform in this process.
    ThisProcess,
    /// A daemon has the job.
    Daemon,
}

impl JobHost {
    /// Reports that the daemon does not answer any more, and how to look for the job.
    fn report_lost(self, job: &JobHandle, stop: Stop) {
        if stop != Stop::None {
            self.report_unfinished_stop(job, stop);
        } else if self == Self::Daemon {
            let id = job.id();
            tell(format_args!(
                "the daemon does not answer about job {id}, which may still run: see `hodei job get {id}`"
            ));
        }
    }

    /// Reports that the job may still run, although this command was asked to stop it.
    fn report_unfinished_stop(self, job: &JobHandle, stop: Stop) {
        let id = job.id();
        match stop {
            _ if self == Self::ThisProcess => {}
            Stop::Asked => {
                tell(format_args!("job {id} was asked to stop and may still run: see `hodei job get {id}`"))
            }
            Stop::None | Stop::Asking => tell(format_args!(
                "job {id} may still run, since the daemon did not answer: stop it with `hodei job cancel {id}`"
            )),
        }
    }
}

/// How far the request to stop a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    None,
    /// It is under way; a daemon that is away is asked again for some time.
    Asking,
    /// The platform has it, or the job has ended.
    Asked,
}

/// Submits a job, passes on its output and waits for its end; returns the exit code.
async fn follow(
    hodei: &Hodei,
    spec: hodei_sdk::JobSpec,
    format: Format,
    interrupts: &mut Interrupts,
    host: JobHost,
) -> Result<u8, CliError> {
    // A job that survives KILL is given up and reported after some seconds.
    let patience = spec.kill_grace() + OUTPUT_FLUSH_TIMEOUT * 4;
    let has_limits = spec.resources().limit().is_some();
    let job = hodei.submit(spec).await?;
    limits::warn(hodei, has_limits).await;
    tell_found(&job).await;
    let writer = Writer::start(format);
    let (mut interrupt, mut stop) = (None, Stop::None);
    let is_broken;
    {
        // Beside the rest: a second signal ends this command also while the daemon is away.
        let mut cancel = std::pin::pin!(job.cancel());
        let mut report = std::pin::pin!(report_troubles(hodei, &job));
        let mut is_reported = host == JobHost::ThisProcess;
        let mut stream = std::pin::pin!(stream(&job, &writer));
        loop {
            tokio::select! {
                biased;
                code = interrupts.next() => {
                    if interrupt.replace(code).is_some() {
                        host.report_unfinished_stop(&job, stop);
                        return Ok(code);
                    }
                    stop = Stop::Asking;
                }
                // A refusal is fine: the job may have ended.
                _ = &mut cancel, if stop == Stop::Asking => stop = Stop::Asked,
                streamed = &mut stream => {
                    is_broken = !streamed.inspect_err(|_| host.report_lost(&job, stop))?;
                    break;
                }
                () = writer.abandoned() => {
                    is_broken = true;
                    break;
                }
                () = &mut report, if !is_reported => is_reported = true,
                () = late(&job, patience), if interrupt.is_some() => {
                    host.report_unfinished_stop(&job, stop);
                    return Ok(interrupt.unwrap_or(exit::INTERRUPTED));
                }
            }
        }
    }
    if is_broken {
        let _ = job.cancel().await;
        stop = Stop::Asked;
    }
    let ended = job.wait().await.inspect_err(|_| host.report_lost(&job, stop))?;
    finish(&job, &ended, writer, format, interrupt, is_broken).await
}

/// Waits for the last output to be written, shows the result, and returns the exit code.
async fn finish(
    job: &JobHandle,
    ended: &Job,
    writer: Writer,
    format: Format,
    interrupt: Option<u8>,
    is_broken: bool,
) -> Result<u8, CliError> {
    let written = tokio::select! {
        written = writer.finish() => written,
        () = sleep(OUTPUT_FLUSH_TIMEOUT), if interrupt.is_some() => Ok(()),
    };
    if format == Format::Json {
        let mut shown = job_json(ended);
        shown["outcome"] = if job.is_new() { "created" } else { "found" }.into();
        writeln!(std::io::stdout(), "{shown}").map_err(CliError::Result)?;
    } else if let (Some(message), None) = (exit::message(ended), interrupt) {
        tell(visible(&message));
    }
    match (interrupt, written) {
        (Some(code), _) => Ok(code),
        (None, Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(exit::BROKEN_PIPE),
        (None, Err(error)) => Err(CliError::Output(error)),
        (None, Ok(())) if is_broken => Ok(exit::BROKEN_PIPE),
        (None, Ok(())) => Ok(exit::code(ended)),
    }
}

/// Reports once why no worker comes, while a job waits for one.
async fn report_troubles(hodei: &Hodei, job: &JobHandle) {
    let mut wait = START_REPORT_DELAY;
    loop {
        sleep(wait).await;
        // `stream` reports a daemon that does not answer.
        if job.get().await.is_ok_and(|job| job.status() != JobStatus::Pending) {
            return;
        }
        let troubles = hodei.queue().status().await.map(|queue| queue.troubles).unwrap_or_default();
        if !troubles.is_empty() {
            let (id, troubles) = (job.id(), troubles.join("; "));
            return tell(format_args!("job {id} waits for a worker: {}", visible(&troubles)));
        }
        wait *= 2;
    }
}

/// Passes on the output until its end; returns false if its reader is gone.
async fn stream(job: &JobHandle, writer: &Writer) -> Result<bool, CliError> {
    let mut logs = job.logs();
    while let Some(item) = logs.next().await? {
        if !writer.put(item).await {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Completes when the job has ended and its last output had time to be written, or after `patience` if unread output
/// holds up the end of the job.
async fn late(job: &JobHandle, patience: Duration) {
    let over = async {
        let _ = job.wait().await;
        sleep(OUTPUT_FLUSH_TIMEOUT).await;
    };
    tokio::select! { () = over => {}, () = sleep(patience) => {} }
}
