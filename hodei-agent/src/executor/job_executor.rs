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
use crate::executor::shortage::{NotStarted, PATIENCE, RETRY};
use crate::executor::start::helper::Helper;
use crate::executor::start::spawn::{Host, Nothing, Spawned, spawn};
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

/// Whether a [`JobExecutor`] of this process would hold jobs to their limits.
pub fn holds_limits() -> bool {
    Cgroups::find().is_there()
}

impl JobExecutor {
    /// An executor that marks its processes, and holds them to their limits where this machine has control groups that
    /// it may make.
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
            nothing: Nothing::default(),
        };
        Self { clock, host, log_files: None }
    }

    /// The same, with this program to put jobs into their groups, rather than `/bin/sh`: its `main` begins with
    /// [`exec_in`](crate::exec_in).
    #[must_use]
    pub fn with_helper(mut self, program: impl Into<PathBuf>) -> Self {
        self.host.helper = Helper::Program(program.into());
        self
    }

    /// The same, whose jobs begin with this.
    #[must_use]
    pub fn with_start_state(mut self, state: StartState) -> Self {
        self.host.starters = Starters::new(state.clone());
        self.host.umask_by_process = OnceLock::new();
        self.host.state = state;
        self
    }

    /// The same, with the workspaces of its jobs there.
    #[must_use]
    pub fn with_workspaces(mut self, workspaces: Workspaces) -> Self {
        self.host.workspaces = WorkspacePool::new(self.clock.clone(), workspaces);
        self
    }

    /// The same, whose processes are among these, with those of other executors.
    #[must_use]
    pub fn with_children(mut self, children: Children) -> Self {
        self.host.children = children;
        self
    }

    /// The same, that writes the output of its jobs to files here too.
    #[must_use]
    pub fn with_file_logger(mut self, logger: FileLogger) -> Self {
        self.log_files = Some(LogFiles::new(logger));
        self
    }

    /// Whether the limits of jobs hold here: where this process may make no control groups, they only say what a worker
    /// has to have.
    pub fn holds_limits(&self) -> bool {
        self.host.cgroups.is_there()
    }

    /// The processes that it waits for.
    pub fn children(&self) -> Children {
        self.host.children.clone()
    }
}

#[async_trait]
impl Executor for JobExecutor {
    async fn run(&self, mut job: Job, stop: StopSignal, output: Output) -> AttemptReport {
        let given = std::mem::take(&mut job.secrets);
        let mut patience = Patience::new(&*self.clock, &stop);
        let Host { workspaces, marks, .. } = &self.host;
        let made = async {
            let workspace = patience.until(|| workspaces.make(marks, &job)).await?;
            Ok((workspace, patience.until(|| workspaces.make_temp(marks)).await?))
        };
        let (mut workspace, temp) = match made.await {
            Ok(made) => made,
            Err(unstarted) => return self.report_unstarted(unstarted, &output).await,
        };
        let ran = self.run_in(workspace.as_mut(), &temp, &job, given, &mut patience, &output).await;
        let is_deserted = ran.is_deserted;
        let script = ran.script.and_then(Script::into_dir);
        // A large one goes on beside: its job has ended.
        let removal = async {
            // All begin at once: dropped before its beginning, one would hold up this thread.
            let of = |dir: Option<Workspace>| async move {
                if let Some(dir) = dir {
                    dir.remove(is_deserted).await;
                }
            };
            tokio::join!(temp.remove(is_deserted), of(script), of(workspace));
        };
        let _ = self.clock.timeout(REMOVAL, removal).await;
        ran.report
    }
}

/// An attempt that is over.
struct Ran {
    report: AttemptReport,
    /// None of its processes is known to live on.
    is_deserted: bool,
    script: Option<Script>,
}

impl Ran {
    /// It had no process.
    fn without_process(report: AttemptReport) -> Self {
        Self { report, is_deserted: false, script: None }
    }
}

/// The end of a job is not held up for longer by what it left.
const REMOVAL: Duration = Duration::from_secs(1);
/// How often a workspace is made anew that is taken away before its job begins.
const REMADE: u32 = 10;

impl JobExecutor {
    async fn run_in(
        &self,
        mut workspace: Option<&mut Workspace>,
        temp: &Workspace,
        job: &Job,
        given: Vec<(SecretName, SecretValue)>,
        patience: &mut Patience<'_>,
        output: &Output,
    ) -> Ran {
        let stop = patience.stop.clone();
        let transfers = Transfers::new(&*self.clock, job);
        let mut begun = None;
        if let Some(workspace) = workspace.as_deref().filter(|_| !job.spec.inputs().is_empty()) {
            // They may take longer than a start may.
            let started_at = *begun.insert(self.clock.now());
            output.process.stop();
            output.started(started_at).await;
            // Its process never started, whatever was said of it: it may be run elsewhere.
            if let Err(why) = transfers.fetch_all(workspace, &stop).await {
                return Ran::without_process(AttemptReport::unstarted(not_moved(why), self.clock.now()));
            }
        }
        let spawned = loop {
            match self.start(job, &given, workspace.as_deref_mut(), temp.dir()).await {
                Ok(spawned) => break Ok(spawned),
                Err(why) => {
                    if let Err(unstarted) = patience.after(why).await {
                        break Err(unstarted);
                    }
                }
            }
        };
        // From here on its files have them, and the mask.
        drop(given);
        let spawned = match spawned {
            Ok(spawned) => spawned,
            Err(unstarted) if begun.is_none() => {
                return Ran::without_process(self.report_unstarted(unstarted, output).await);
            }
            // It was said to run, while its inputs came.
            Err(unstarted) => {
                let report = AttemptReport::unstarted(unstarted.outcome(), self.clock.now());
                return Ran::without_process(report);
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
        let (report, left_nobody) = (run.report(started_at, ended), run.left_nobody());
        let is_deserted = left_nobody && (run.is_contained() || !self.host.children.may_have_strays());
        // Its secrets and its groups do not wait for what is kept of it.
        let script = run.end().await;
        let report = match workspace.as_deref().filter(|_| !job.spec.outputs().is_empty()) {
            Some(workspace) => {
                let report = keep(&transfers.hiding(needles.clone()), workspace, report, &stop, output).await;
                hide(report, needles.as_ref())
            }
            None => report,
        };
        Ran { report, is_deserted, script }
    }
}

impl JobExecutor {
    /// Starts the process, in its workspace if it has one, which may have been taken away since it was made.
    async fn start(
        &self,
        job: &Job,
        given: &Given,
        workspace: Option<&mut Workspace>,
        temp: &Path,
    ) -> Result<Spawned, NotStarted> {
        let Some(workspace) = workspace else { return spawn(job, given, &self.host, None, temp).await };
        for _ in 0..REMADE {
            match spawn(job, given, &self.host, Some(workspace.dir()), temp).await {
                Err(NotStarted::Failed(_)) if job.spec.inputs().is_empty() && workspace.make_again() => {}
                spawned => return spawned,
            }
        }
        spawn(job, given, &self.host, Some(workspace.dir()), temp).await
    }

    /// What the platform hears of an attempt without a process: that it is given back, or how it ended.
    async fn report_unstarted(&self, unstarted: Unstarted, output: &Output) -> AttemptReport {
        if let Unstarted::Short(_) = unstarted {
            output.give_back().await;
        }
        AttemptReport::unstarted(unstarted.outcome(), self.clock.now())
    }
}

/// How long an attempt waits for what the machine is short of.
struct Patience<'a> {
    clock: &'a dyn Clock,
    stop: StopSignal,
    /// Since the machine was first short.
    until: Option<Duration>,
}

impl<'a> Patience<'a> {
    fn new(clock: &'a dyn Clock, stop: &StopSignal) -> Self {
        Self { clock, stop: stop.clone(), until: None }
    }

    /// Tries until it succeeds, as long as that can help.
    async fn until<T>(&mut self, make: impl Fn() -> Result<T, NotStarted> + Send) -> Result<T, Unstarted> {
        loop {
            match make() {
                Ok(made) => return Ok(made),
                Err(why) => self.after(why).await?,
            }
        }
    }

    /// Waits until it may be tried again, when that can help.
    async fn after(&mut self, why: NotStarted) -> Result<(), Unstarted> {
        let why = match why {
            NotStarted::Failed(cause) => return Err(Unstarted::Failed(cause)),
            NotStarted::Short(why) => why,
        };
        let now = self.clock.monotonic();
        let until = *self.until.get_or_insert_with(|| {
            tracing::warn!(%why, "a job waits: this machine is short of what it takes to start one");
            now + PATIENCE
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
            changed = self.stop.changed() => if changed.is_err() { self.clock.sleep(RETRY).await },
            () = self.clock.sleep(RETRY) => {}
        }
        Ok(())
    }
}

/// Why an attempt has no process.
enum Unstarted {
    Failed(FailureCause),
    Stopped(StopReason),
    /// The machine stayed short of something.
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

/// Stores what is to be kept of an attempt that ended. What it cannot have makes a success none, and changes no failure:
/// of that is kept what can be.
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
            tracing::warn!(attempt = %transfers.attempt, ?why, "not all is kept of a failure");
            AttemptReport { artifacts, ..report }
        }
        Err(why) => AttemptReport { outcome: not_moved(why), ..report },
    }
}

/// A report goes where output does not: into the database and before everybody's eyes.
fn hide(report: AttemptReport, needles: Option<&Arc<Needles>>) -> AttemptReport {
    match (report.outcome, needles) {
        (Outcome::Failed(FailureCause::Artifact(why)), Some(needles)) => {
            let outcome = Outcome::Failed(FailureCause::Artifact(needles.masked(&why)));
            AttemptReport { outcome, ..report }
        }
        (outcome, _) => AttemptReport { outcome, ..report },
    }
}

/// Notes that are written out; of more is said how many there are.
const MAX_NOTES: usize = 20;

/// What is said on the standard error of a job of files that were not kept; none where all were. Their names may have
/// secrets in them.
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
