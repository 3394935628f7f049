//! `hodei run`: one job, here and now.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hodei_sdk::{Hodei, JobHandle, JobStatus, MemoryLogStore, Settings, SignalListener};
use rustix::process::Signal;
use tokio::signal::unix::SignalKind;

use crate::args::{RunArgs, in_this_directory};
use crate::error::CliError;
use crate::exit;
use crate::guard::Guard;
use crate::job::{open_jobs, tell_found};
use crate::job_json::job_json;
use crate::limits;
use crate::output::Writer;
use crate::show::{Format, tell, visible};
use crate::target::{Target, here, here_of, store_url};

/// Output kept while stdout is slow; beyond it the job is slowed.
const OUTPUT: usize = 16 << 20;
/// A job that has not started by then is asked about: what keeps workers from coming is worth a word.
const NOT_STARTED: Duration = Duration::from_secs(2);
/// How long an interrupted run still waits for its output to be taken.
const LAST_WORDS: Duration = Duration::from_secs(1);

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

/// Ends a platform that stopped by itself, as one whose files were removed: the log has said why.
pub(crate) async fn give_up(hodei: Hodei) -> CliError {
    tokio::select! { () = hodei.shutdown_within(Duration::ZERO) => {}, () = sleep(LAST_WORDS * 3) => {} }
    CliError::Stopped
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
        shown["outcome"] = if job.was_found() { "found" } else { "created" }.into();
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

/// Ends a platform that may be running jobs of others; whoever interrupts that wants to go.
pub(crate) async fn leave(hodei: Hodei, dir: &Path, interrupts: &mut Interrupts) {
    let open = open_jobs(&hodei).await.map_or(0, |open| open.len());
    if open > 0 {
        let dir = dir.display();
        let _ = writeln!(
            std::io::stderr(),
            "hodei: other jobs are open ({open}): what runs has 30 s to end, `hodei job wait --data-dir {dir}` goes on"
        );
    }
    tokio::select! { () = hodei.shutdown() => {}, _ = interrupts.next() => {} }
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
        let troubles = hodei.queue().await.map(|queue| queue.troubles).unwrap_or_default();
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

#[allow(clippy::disallowed_methods, reason = "the command line is outside of the platform and its clock")]
pub(crate) async fn sleep(wait: Duration) {
    tokio::time::sleep(wait).await;
}

/// Ctrl-C, TERM, a closed terminal and Ctrl-\\, as exit codes. A signal that this program was started to ignore, as by
/// `nohup` or in the background of a script, stays ignored.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: SignalListener,
    terminate: SignalListener,
    hangup: SignalListener,
    quit: SignalListener,
    /// Handled so that it does nothing: a file that a limit keeps from growing is a write that fails.
    _file_size: SignalListener,
}

impl Interrupts {
    pub(crate) fn new() -> std::io::Result<Self> {
        let on = |kind: SignalKind| SignalListener::new(kind.as_raw_value());
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
            quit: on(SignalKind::quit())?,
            _file_size: SignalListener::new(Signal::XFSZ.as_raw())?,
        })
    }

    /// The exit code of the next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            () = self.interrupt.recv() => exit::INTERRUPTED,
            () = self.terminate.recv() => exit::TERMINATED,
            () = self.hangup.recv() => exit::HUNG_UP,
            () = self.quit.recv() => exit::QUIT,
        }
    }
}
