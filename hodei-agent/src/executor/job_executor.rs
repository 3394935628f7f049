//! The executor that runs attempts as processes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use hodei_core::job::{AttemptReport, FailureCause, Outcome};
use hodei_core::port::{Clock, ClockExt, LogStream};
use hodei_core::secret::{SecretName, SecretValue};

use crate::executor::artifacts::{NotMoved, Transfers};
use crate::executor::host::cgroup::Cgroups;
use crate::executor::host::children::Children;
use crate::executor::host::marks::Marks;
use crate::executor::output::file_logger::{FileLogger, LogFiles};
use crate::executor::process::{Run, stopped};
use crate::executor::script::Script;
use crate::executor::secrets::{Given, Needles};
use crate::executor::shortage::{NotStarted, RETRY_INTERVAL, SHORTAGE_TIMEOUT};
use crate::executor::start::helper::Helper;
use crate::executor::start::spawn::{Host, NullInput, Spawned, spawn};
use crate::executor::start::start_state::StartState;
use crate::executor::start::starter::Starters;
use crate::executor::workspace::{Workspace, WorkspacePool, Workspaces};
use crate::executor::{Chunk, Executor, Job, Output, StopReason, StopSignal};

/// Runs attempts as processes of this machine.
#[derive(Debug)]
pub struct JobExecutor {
    clock: Arc<dyn Clock>,
    host: Host,
    log_files: Option<LogFiles>,
}

/// Returns whether a [`JobExecutor`] of this process can enforce the limits of jobs.
pub fn holds_limits() -> bool {
    Cgroups::find().is_there()
}

impl JobExecutor {
    /// Creates an executor that marks its processes. It enforces the limits of jobs if it may create control groups on
    /// this machine.
    pub fn new(clock: Arc<dyn Clock>, marks: Marks) -> Self {
        let cgroups = Cgroups::find();
        let (kept, state) = (cgroups.kept(&marks), StartState::default());
        let host = Host {
            marks: Arc::new(marks),
            children: Children::default(),
            cgroups,
            kept,
            helper: Helper::default(),
            starters: Starters::new(state.clone()),
            state,
            umask_by_process: OnceLock::new(),
            account: OnceLock::new(),
            workspaces: WorkspacePool::new(clock.clone(), Workspaces::default()),
            null_input: NullInput::default(),
        };
        Self { clock, host, log_files: None }
    }

    /// Sets the program that moves jobs into their groups, instead of `/bin/sh`. Its `main` must start with
    /// [`exec_in`](crate::exec_in).
    #[must_use]
    pub fn with_helper(mut self, program: impl Into<PathBuf>) -> Self {
        self.host.helper = Helper::Program(program.into());
        self
    }

    /// Sets the initial state of jobs.
    #[must_use]
    pub fn with_start_state(mut self, state: StartState) -> Self {
        self.host.starters = Starters::new(state.clone());
        self.host.umask_by_process = OnceLock::new();
        self.host.state = state;
        self
    }

    /// Sets where jobs have their workspaces.
    #[must_use]
    pub fn with_workspaces(mut self, workspaces: Workspaces) -> Self {
        self.host.workspaces = WorkspacePool::new(self.clock.clone(), workspaces);
        self
    }

    /// Sets the registry of child processes, which executors may share.
    #[must_use]
    pub fn with_children(mut self, children: Children) -> Self {
        self.host.children = children;
        self
    }

    /// Sets a logger that also writes the output of jobs to files of this machine.
    #[must_use]
    pub fn with_file_logger(mut self, logger: FileLogger) -> Self {
        self.log_files = Some(LogFiles::new(logger));
        self
    }

    /// Returns whether the limits of jobs are enforced. If this process may create no control groups, they only serve
    /// the choice of a worker.
    pub fn holds_limits(&self) -> bool {
        self.host.cgroups.is_there()
    }

    /// Returns the processes that it waits for.
    pub fn children(&self) -> Children {
        self.host.children.clone()
    }
}

#[async_trait]
impl Executor for JobExecutor {
    async fn run(&self, mut job: Job, stop: StopSignal, output: Output) -> AttemptReport {
        let given = std::mem::take(&mut job.secrets);
        let mut shortage_wait = ShortageWait::new(&*self.clock, &stop);
        let Host { workspaces, marks, .. } = &self.host;
        let made = async {
            let workspace = shortage_wait.until(|| workspaces.make(marks, &job)).await?;
            Ok((workspace, shortage_wait.until(|| workspaces.make_temp(marks)).await?))
        };
        let (mut workspace, temp) = match made.await {
            Ok(made) => made,
            Err(unstarted) => return self.report_unstarted(unstarted, &output).await,
        };
        let ran = self.run_in(workspace.as_mut(), &temp, &job, given, &mut shortage_wait, &output).await;
        let is_deserted = ran.is_deserted;
        let script = ran.script.and_then(Script::into_dir);
        // The removal of a large one continues in the background: its job has ended.
        let removal = async {
            // All start at once: a future that is dropped before its start would remove its directory on this thread.
            let of = |dir: Option<Workspace>| async move {
                if let Some(dir) = dir {
                    dir.remove(is_deserted).await;
                }
            };
            tokio::join!(temp.remove(is_deserted), of(script), of(workspace));
        };
        let _ = self.clock.timeout(REMOVAL_TIMEOUT, removal).await;
        ran.report
    }
}

/// An ended attempt.
struct EndedAttempt {
    report: AttemptReport,
    /// Whether none of its processes is known to be alive.
    is_deserted: bool,
    script: Option<Script>,
}

impl EndedAttempt {
    /// Returns an attempt that had no process.
    fn without_process(report: AttemptReport) -> Self {
        Self { report, is_deserted: false, script: None }
    }
}

/// How long the end of a job waits for the removal of its directories.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of times that a workspace is created again if it disappears before its job starts.
const MAX_WORKSPACE_REMAKES: u32 = 10;

impl JobExecutor {
    async fn run_in(
        &self,
        mut workspace: Option<&mut Workspace>,
        temp: &Workspace,
        job: &Job,
        given: Vec<(SecretName, SecretValue)>,
        shortage_wait: &mut ShortageWait<'_>,
        output: &Output,
    ) -> EndedAttempt {
        let stop = shortage_wait.stop.clone();
        let transfers = Transfers::new(&*self.clock, job);
        let mut begun = None;
        if let Some(workspace) = workspace.as_deref().filter(|_| !job.spec.inputs().is_empty()) {
            // Transfers may take longer than the dispatch timeout allows, so the start is reported now.
            let started_at = *begun.insert(self.clock.now());
            output.process.stop();
            output.started(started_at).await;
            // Despite the reported start, no process started: the attempt may run elsewhere.
            if let Err(why) = transfers.fetch_all(workspace, &stop).await {
                return EndedAttempt::without_process(AttemptReport::unstarted(
                    not_moved(why),
                    self.clock.now(),
                ));
            }
        }
        let spawned = loop {
            match self.start(job, &given, workspace.as_deref_mut(), temp.dir()).await {
                Ok(spawned) => break Ok(spawned),
                Err(why) => {
                    if let Err(unstarted) = shortage_wait.after(why).await {
                        break Err(unstarted);
                    }
                }
            }
        };
        // The files and the mask of the process have them now.
        drop(given);
        let spawned = match spawned {
            Ok(spawned) => spawned,
            Err(unstarted) if begun.is_none() => {
                return EndedAttempt::without_process(self.report_unstarted(unstarted, output).await);
            }
            // The start was already reported, for the inputs.
            Err(unstarted) => {
                let report = AttemptReport::unstarted(unstarted.outcome(), self.clock.now());
                return EndedAttempt::without_process(report);
            }
        };
        let started_at = begun.unwrap_or_else(|| self.clock.now());
        output.process.start(self.clock.monotonic());
        let mut run =
            Run::new(self.clock.clone(), job, self.host.marks.clone(), spawned, self.log_files.clone());
        if begun.is_none() {
            output.started(started_at).await;
        }
        let needles = run.needles();
        let ended = run.supervise(stop.clone(), output).await;
        let (report, left_no_process) = (run.report(started_at, ended), run.left_no_process());
        let is_deserted = left_no_process && (run.is_contained() || !self.host.children.may_have_strays());
        // Secrets and groups are released before the outputs are stored.
        let script = run.end().await;
        let report = match workspace.as_deref().filter(|_| !job.spec.outputs().is_empty()) {
            Some(workspace) => {
                let report = keep(&transfers.hiding(needles.clone()), workspace, report, &stop, output).await;
                hide(report, needles.as_ref())
            }
            None => report,
        };
        EndedAttempt { report, is_deserted, script }
    }
}

impl JobExecutor {
    /// Starts the process, in its workspace if it has one. Creates the workspace again if it disappeared.
    async fn start(
        &self,
        job: &Job,
        given: &Given,
        workspace: Option<&mut Workspace>,
        temp: &Path,
    ) -> Result<Spawned, NotStarted> {
        let Some(workspace) = workspace else { return spawn(job, given, &self.host, None, temp).await };
        for _ in 0..MAX_WORKSPACE_REMAKES {
            match spawn(job, given, &self.host, Some(workspace.dir()), temp).await {
                Err(NotStarted::Failed(_)) if job.spec.inputs().is_empty() && workspace.make_again() => {}
                spawned => return spawned,
            }
        }
        spawn(job, given, &self.host, Some(workspace.dir()), temp).await
    }

    /// Reports an attempt without a process: gives it back after a shortage, and returns its report.
    async fn report_unstarted(&self, unstarted: Unstarted, output: &Output) -> AttemptReport {
        if let Unstarted::Short(_) = unstarted {
            output.give_back().await;
        }
        AttemptReport::unstarted(unstarted.outcome(), self.clock.now())
    }
}

/// Limits how long an attempt waits during a shortage of the machine.
struct ShortageWait<'a> {
    clock: &'a dyn Clock,
    stop: StopSignal,
    /// When the wait ends, on the monotonic clock. Set by the first shortage.
    until: Option<Duration>,
}

impl<'a> ShortageWait<'a> {
    fn new(clock: &'a dyn Clock, stop: &StopSignal) -> Self {
        Self { clock, stop: stop.clone(), until: None }
    }

    /// Retries `make` until it succeeds, fails for good, or the wait ends.
    async fn until<T>(&mut self, make: impl Fn() -> Result<T, NotStarted> + Send) -> Result<T, Unstarted> {
        loop {
            match make() {
                Ok(made) => return Ok(made),
                Err(why) => self.after(why).await?,
            }
        }
    }

    /// Waits until the next retry. Returns an error if there is none.
    async fn after(&mut self, why: NotStarted) -> Result<(), Unstarted> {
        let why = match why {
            NotStarted::Failed(cause) => return Err(Unstarted::Failed(cause)),
            NotStarted::Short(why) => why,
        };
        let now = self.clock.monotonic();
        let until = *self.until.get_or_insert_with(|| {
            tracing::warn!(%why, "a job waits: this machine lacks the resources to start it");
            now + SHORTAGE_TIMEOUT
        });
        if now >= until {
            return Err(Unstarted::Short(why));
        }
        let asked = *self.stop.borrow_and_update();
        if let Some(stop) = asked {
            return Err(Unstarted::Stopped(stop.reason));
        }
        tokio::select! {
            biased;
            changed = self.stop.changed() => if changed.is_err() { self.clock.sleep(RETRY_INTERVAL).await },
            () = self.clock.sleep(RETRY_INTERVAL) => {}
        }
        Ok(())
    }
}

/// Why an attempt has no process.
enum Unstarted {
    Failed(FailureCause),
    Stopped(StopReason),
    /// The shortage lasted until the end of the wait.
    Short(String),
}

impl Unstarted {
    fn outcome(self) -> Outcome {
        match self {
            Self::Failed(cause) => Outcome::Failed(cause),
            Self::Stopped(reason) => stopped(reason),
            Self::Short(why) => Outcome::Failed(FailureCause::Infrastructure(why)),
        }
    }
}

/// Stores the outputs of an ended attempt. If that fails, a successful attempt fails. A failed one keeps its outcome
/// and as many outputs as possible.
async fn keep(
    transfers: &Transfers<'_>,
    workspace: &Workspace,
    report: AttemptReport,
    stop: &StopSignal,
    output: &Output,
) -> AttemptReport {
    let has_failed = match report.outcome {
        Outcome::Succeeded => false,
        Outcome::Failed(_) | Outcome::TimedOut => true,
        Outcome::Cancelled => return report,
    };
    let (mut artifacts, mut notes) = (Vec::new(), Vec::new());
    let kept = transfers.store_all(workspace, has_failed, stop, &mut artifacts, &mut notes).await;
    if let Some(text) = passed_over(&notes, !transfers.spec.secrets().is_empty()) {
        let (at, bytes) = (transfers.clock.now(), text.into());
        output.write(Chunk { stream: LogStream::Stderr, at, bytes }).await;
    }
    match kept {
        Ok(()) => AttemptReport { artifacts, ..report },
        Err(why) if has_failed => {
            tracing::warn!(attempt = %transfers.attempt, ?why, "cannot store all outputs of a failed attempt");
            AttemptReport { artifacts, ..report }
        }
        Err(why) => AttemptReport { outcome: not_moved(why), ..report },
    }
}

/// Masks secrets in a report, which is stored in the database and shown to more readers than the output.
fn hide(report: AttemptReport, needles: Option<&Arc<Needles>>) -> AttemptReport {
    match (report.outcome, needles) {
        (Outcome::Failed(FailureCause::Artifact(why)), Some(needles)) => {
            let outcome = Outcome::Failed(FailureCause::Artifact(needles.masked(&why)));
            AttemptReport { outcome, ..report }
        }
        (outcome, _) => AttemptReport { outcome, ..report },
    }
}

/// Maximum number of notes that are written out; the others are counted.
const MAX_NOTES: usize = 20;

/// Returns the text for the standard error of a job about files that were not kept; `None` if all were. Only counts
/// them if the job has secrets, which their names may contain.
fn passed_over(notes: &[String], has_secrets: bool) -> Option<String> {
    let shown = if has_secrets { 0 } else { MAX_NOTES };
    let mut text: String =
        notes.iter().take(shown).map(|note| format!("hodei: not kept: {}\n", note.escape_debug())).collect();
    if notes.len() > shown {
        text.push_str(&format!(
            "hodei: not kept: {} more, such as links that lead out\n",
            notes.len() - shown
        ));
    }
    (!text.is_empty()).then_some(text)
}

fn not_moved(why: NotMoved) -> Outcome {
    match why {
        NotMoved::Failed(cause) => Outcome::Failed(cause),
        NotMoved::Stopped(stop) => stopped(stop.reason),
        NotMoved::Fenced => Outcome::Cancelled,
        NotMoved::PassedOver(why) => Outcome::Failed(FailureCause::Artifact(why)),
    }
}
