use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hodei_core::job::{AttemptReport, Outcome};
use hodei_core::port::{Clock, ClockExt};
use hodei_core::secret::{SecretName, SecretValue};

use super::artifacts::{NotMoved, Transfers};
use super::cgroup::Cgroups;
use super::children::Children;
use super::file_logger::{FileLogger, LogFiles};
use super::helper::Helper;
use super::process::{Run, stopped};
use super::spawn::{Host, spawn};
use super::tree::Marks;
use super::workspace::{Workspace, WorkspacePool, Workspaces};
use super::{Executor, Job, Output, StopSignal};

/// Runs attempts as processes of this machine.
#[derive(Debug)]
pub struct JobExecutor {
    clock: Arc<dyn Clock>,
    host: Host,
    log_files: Option<LogFiles>,
}

impl JobExecutor {
    /// An executor that marks its processes, and holds them to their limits where this machine has control groups that
    /// it may make.
    pub fn new(clock: Arc<dyn Clock>, marks: Marks) -> Self {
        let (children, cgroups, helper) = (Children::default(), Cgroups::find(), Helper::default());
        let host = Host { marks, children, cgroups, helper, workspaces: WorkspacePool::default() };
        Self { clock, host, log_files: None }
    }

    /// The same, with this program to put jobs into their groups, rather than `/bin/sh`: its `main` begins with
    /// [`exec_in`](crate::exec_in).
    #[must_use]
    pub fn with_helper(mut self, program: impl Into<PathBuf>) -> Self {
        self.host.helper = Helper::Program(program.into());
        self
    }

    /// The same, with the workspaces of its jobs there.
    #[must_use]
    pub fn with_workspaces(mut self, workspaces: Workspaces) -> Self {
        self.host.workspaces = WorkspacePool::new(workspaces);
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
        let workspace = match self.host.workspaces.make(&self.host.marks, &job) {
            Ok(workspace) => workspace,
            Err(cause) => return AttemptReport::unstarted(Outcome::Failed(cause), self.clock.now()),
        };
        let (report, left_nobody) = self.run_in(workspace.as_ref(), &job, given, stop, &output).await;
        if let Some(workspace) = workspace {
            // A large one goes on beside: its job has ended.
            let is_deserted = left_nobody && !self.host.children.may_have_strays();
            let _ = self.clock.timeout(REMOVAL, workspace.remove(is_deserted)).await;
        }
        report
    }
}

/// The end of a job is not held up for longer by what it left.
const REMOVAL: Duration = Duration::from_secs(1);

impl JobExecutor {
    /// The report, and whether none of its processes is known to live on.
    async fn run_in(
        &self,
        workspace: Option<&Workspace>,
        job: &Job,
        given: Vec<(SecretName, SecretValue)>,
        stop: StopSignal,
        output: &Output,
    ) -> (AttemptReport, bool) {
        let transfers = Transfers::new(&*self.clock, job);
        let mut begun = None;
        if let Some(workspace) = workspace.filter(|_| !job.spec.inputs().is_empty()) {
            // They may take longer than a start may.
            let started_at = *begun.insert(self.clock.now());
            output.started(started_at).await;
            // Its process never started, whatever was said of it: it may be run elsewhere.
            if let Err(why) = transfers.fetch_all(workspace, &stop).await {
                return (AttemptReport::unstarted(not_moved(why), self.clock.now()), false);
            }
        }
        let spawned = spawn(job, &given, &self.host, workspace.map(Workspace::dir));
        // From here on its files have them, and the mask.
        drop(given);
        let spawned = match spawned {
            Ok(spawned) => spawned,
            Err(cause) => {
                return (AttemptReport::unstarted(Outcome::Failed(cause), self.clock.now()), false);
            }
        };
        let started_at = begun.unwrap_or_else(|| self.clock.now());
        let mut run = Run::new(self.clock.clone(), job, spawned, self.log_files.clone());
        if begun.is_none() {
            output.started(started_at).await;
        }
        let ended = run.supervise(stop.clone(), output).await;
        let (report, left_nobody) = (run.report(started_at, ended), run.left_nobody());
        // Its secrets and its groups do not wait for what is kept of it.
        run.end().await;
        let report = match workspace.filter(|_| !job.spec.outputs().is_empty()) {
            Some(workspace) => keep(&transfers, workspace, report, &stop).await,
            None => report,
        };
        (report, left_nobody)
    }
}

/// Stores what is to be kept of an attempt that ended. What it cannot have makes a success none, and changes no failure:
/// of that is kept what can be.
async fn keep(
    transfers: &Transfers<'_>,
    workspace: &Workspace,
    report: AttemptReport,
    stop: &StopSignal,
) -> AttemptReport {
    let has_failed = match report.outcome {
        Outcome::Succeeded => false,
        Outcome::Failed(_) | Outcome::TimedOut => true,
        Outcome::Cancelled => return report,
    };
    let mut artifacts = Vec::new();
    match transfers.store_all(workspace, has_failed, stop, &mut artifacts).await {
        Ok(()) => AttemptReport { artifacts, ..report },
        Err(why) if has_failed => {
            tracing::warn!(attempt = %transfers.attempt, ?why, "not all is kept of a failure");
            AttemptReport { artifacts, ..report }
        }
        Err(why) => AttemptReport { outcome: not_moved(why), ..report },
    }
}

fn not_moved(why: NotMoved) -> Outcome {
    match why {
        NotMoved::Failed(cause) => Outcome::Failed(cause),
        NotMoved::Stopped(stop) => stopped(stop.reason),
        NotMoved::Fenced => Outcome::Cancelled,
    }
}
