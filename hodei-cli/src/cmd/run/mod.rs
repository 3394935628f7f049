//! `hodei run`: one job, here and now.

pub(crate) mod guard;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Args;
use hodei_sdk::{Hodei, JobHandle, JobStatus, MemoryLogStore, Settings};

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

/// Output kept while stdout is slow; beyond it the job is slowed.
const OUTPUT: usize = 16 << 20;
/// A job that has not started by then is asked about: what keeps workers from coming is worth a word.
const NOT_STARTED: Duration = Duration::from_secs(2);
/// How long an interrupted run still waits for its output to be taken.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Flags of `hodei run`.
#[derive(Debug, Args)]
#[command(after_help = "EXIT CODES:
  the job's own, 128 + n when signal n killed it, 1 an artifact that is missing, 124 timeout, 125 Hodei's own failure,
  126 not executable, 127 not found, 130 interrupted, 143 terminated, 129 hung up, 131 quit

ENVIRONMENT:
  A job gets PATH HOME USER LANG TZ TMPDIR, what --env adds, HODEI_JOB_ID, HODEI_ATTEMPT, HODEI_OWNER and
  HODEI_WORKER_ID, HODEI_WORKSPACE where it has one, and HODEI_SECRETS_DIR with --secret: nothing else of the
  caller's environment is passed on.

WORKSPACE:
  A daemon's job runs in a directory of its own, which goes with it. Without a daemon a job runs here, as a child of
  this program, unless a relative --cwd, --input, --artifact or --keep-workspace want a workspace. A job of a data
  directory runs where it was submitted, whichever run goes on with it. TMPDIR is a directory of the job's own in each case.

OUTPUT:
  The job's output comes as it is written. With --output json it goes to stderr, and one object comes on stdout at
  the end.

EXAMPLES:
  hodei run -- echo hello
  hodei run --data-dir ./jobs -- make    # kept: see `hodei job list --data-dir ./jobs`
  hodei run --timeout 1.5s --retries 2 -- ./flaky --once
  hodei run --shell 'ls | wc -l'
  printf 'one\\ntwo\\n' | hodei run --stdin - -- wc -l")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    what: SpecArgs,
    /// Keep the job, its history and its output there; made when missing. Jobs that are still open there run too, and have 30 s to end after this one.
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    data_dir: Option<PathBuf>,
}

/// Runs one job and returns the exit code.
pub(crate) async fn run(target: &Target, format: Format, args: RunArgs) -> Result<u8, CliError> {
    let data_dir = args.data_dir;
    // Before signals are ours: until the job exists, Ctrl-C ends this program as any other.
    let spec = args.what.spec()?;
    let spec = if data_dir.is_some() { in_this_directory(spec) } else { spec };
    let daemon = if data_dir.is_none() { target.named().await? } else { None };
    let mut interrupts = Interrupts::new().map_err(CliError::Runtime)?;
    if let Some(daemon) = daemon {
        return follow(&daemon, spec, format, &mut interrupts, Left::GoesOn).await;
    }
    let Some(dir) = data_dir else {
        let mut settings = Settings::default();
        // The job is over by then, or somebody asked twice to stop it.
        settings.drain_timeout = Duration::ZERO;
        // It is passed on as it comes, and none of it is kept.
        settings.log_limit = u64::MAX;
        let logs = Arc::new(MemoryLogStore::paced(OUTPUT));
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
        code = follow(&hodei, spec, format, &mut interrupts, Left::Ends) => Some(code),
        () = hodei.stopped() => None,
    };
    // What it stopped of may have been heard first.
    let has_stopped =
        tokio::select! { biased; () = hodei.stopped() => true, () = std::future::ready(()) => false };
    let Some(code) = followed.filter(|code| code.is_ok() || !has_stopped) else {
        return Err(give_up(hodei).await);
    };
    leave(hodei, &dir, &mut interrupts).await;
    code
}

/// In memory: no later start would know what a kill of this process leaves, so another one ends that.
async fn run_here(
    logs: Arc<MemoryLogStore>,
    settings: Settings,
    spec: hodei_sdk::JobSpec,
    format: Format,
    interrupts: &mut Interrupts,
) -> Result<u8, CliError> {
    // Loaded while the platform starts.
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
            "the job would outlive a kill -9 of this program, since no second one can be started: {error}"
        ));
    }
    let code = follow(&hodei, spec, format, interrupts, Left::Ends).await;
    hodei.shutdown().await;
    if let Ok(guard) = guard {
        guard.dismiss();
    }
    code
}

/// What becomes of a job whose end is not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// It ends with the platform in this process.
    Ends,
    /// A daemon has it.
    GoesOn,
}

impl Left {
    /// The daemon says nothing more of a job, to this caller or to anybody.
    fn unheard(self, job: &JobHandle, is_asked: bool) {
        if is_asked {
            self.tell(job);
        } else if self == Self::GoesOn {
            let id = job.id();
            tell(format_args!(
                "nothing more is heard of job {id}, which may go on: see `hodei job get {id}`"
            ));
        }
    }

    fn tell(self, job: &JobHandle) {
        if self == Self::GoesOn {
            let id = job.id();
            let _ = writeln!(
                std::io::stderr(),
                "hodei: job {id} was asked to stop and this did not wait for it: see `hodei job get {id}`"
            );
        }
    }
}

async fn follow(
    hodei: &Hodei,
    spec: hodei_sdk::JobSpec,
    format: Format,
    interrupts: &mut Interrupts,
    left: Left,
) -> Result<u8, CliError> {
    // What KILL does not end is given up within seconds, with a word.
    let patience = spec.kill_grace() + LAST_WORDS * 4;
    let has_limits = spec.resources().limit().is_some();
    let job = hodei.submit(spec).await?;
    limits::warn(hodei, has_limits).await;
    tell_found(&job).await;
    let writer = Writer::start(format);
    let mut asked = None;
    let broken;
    {
        let mut waits = std::pin::pin!(tell_of_troubles(hodei, &job));
        let mut is_told = left == Left::Ends;
        let mut stream = std::pin::pin!(stream(&job, &writer));
        loop {
            tokio::select! {
                biased;
                code = interrupts.next() => {
                    if asked.replace(code).is_some() {
                        left.tell(&job);
                        return Ok(code);
                    }
                    // It may be over already, which is as good.
                    let _ = job.cancel().await;
                }
                streamed = &mut stream => {
                    broken = !streamed.inspect_err(|_| left.unheard(&job, asked.is_some()))?;
                    break;
                }
                () = writer.abandoned() => {
                    broken = true;
                    break;
                }
                () = &mut waits, if !is_told => is_told = true,
                () = late(&job, patience), if asked.is_some() => {
                    left.tell(&job);
                    return Ok(asked.unwrap_or(exit::INTERRUPTED));
                }
            }
        }
    }
    if broken {
        let _ = job.cancel().await;
    }
    let ended = job.wait().await.inspect_err(|_| left.unheard(&job, asked.is_some() || broken))?;
    let written = tokio::select! {
        written = writer.finish() => written,
        () = sleep(LAST_WORDS), if asked.is_some() => Ok(()),
    };
    if format == Format::Json {
        let mut shown = job_json(&ended);
        shown["outcome"] = if job.is_new() { "created" } else { "found" }.into();
        writeln!(std::io::stdout(), "{shown}").map_err(CliError::Result)?;
    } else if let (Some(message), None) = (exit::message(&ended), asked) {
        tell(visible(&message));
    }
    match (asked, written) {
        (Some(code), _) => Ok(code),
        (None, Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(exit::BROKEN_PIPE),
        (None, Err(error)) => Err(CliError::Output(error)),
        (None, Ok(())) if broken => Ok(exit::BROKEN_PIPE),
        (None, Ok(())) => Ok(exit::code(&ended)),
    }
}

/// Says once what keeps workers from coming, while a job waits for one.
async fn tell_of_troubles(hodei: &Hodei, job: &JobHandle) {
    let mut wait = NOT_STARTED;
    loop {
        sleep(wait).await;
        // A daemon that is away is told of by what follows the job.
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

/// Passes the output on to its end; false when nobody takes it.
async fn stream(job: &JobHandle, writer: &Writer) -> Result<bool, CliError> {
    let mut logs = job.logs();
    while let Some(item) = logs.next().await? {
        if !writer.put(item).await {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Ends when the job has been over for as long as its last output may take, or when its end is held up by
/// output that nobody takes.
async fn late(job: &JobHandle, patience: Duration) {
    let over = async {
        let _ = job.wait().await;
        sleep(LAST_WORDS).await;
    };
    tokio::select! { () = over => {}, () = sleep(patience) => {} }
}
