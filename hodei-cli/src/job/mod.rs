//! `hodei job`: the jobs of a daemon, or of a data directory after and between the runs.

mod artifacts;
mod explain;
mod read;
mod submit;
mod wait;
mod watch;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hodei_sdk::JobStatus;
use hodei_sdk::id::JobId;

use crate::error::CliError;
use crate::job_json::{is_asked_to_stop, job_json, spec_json};
use crate::limits;
use crate::show::{Format, object, print};
use crate::target::Target;

pub(crate) use submit::tell_found;
pub(crate) use wait::open_jobs;

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Submit a job, or many of a file, and print their ids.
    Submit(Box<submit::SubmitArgs>),
    /// List jobs, the newest first by the time in their ids.
    List(ListArgs),
    /// Show one job.
    Get(OneArgs),
    /// Say why a job waits, where it ran and why there, and what came of each attempt.
    Explain(OneArgs),
    /// Print the output of a job: its stdout on stdout, its stderr on stderr.
    ///
    /// With --output json, one object for each piece on stdout, its bytes in base64 as `data`.
    Logs(LogsArgs),
    /// List the files that are kept of a job, or get one.
    Artifacts(artifacts::ArtifactArgs),
    /// Wait for the end of jobs; exit with 0 when all of them succeeded. In a data directory, run them.
    Wait(WaitArgs),
    /// Cancel jobs that wait; ask those that run to stop.
    Cancel(CancelArgs),
    /// Submit a job that ended again, runnable at once, and print the id of the new one; `job wait` runs it.
    Retry(RetryArgs),
    /// Show everything that happened to a job.
    Events(OneArgs),
    /// Print all jobs of a daemon as they change, a line each, until it is interrupted.
    Watch(watch::WatchArgs),
}

#[derive(Debug, Args)]
struct Place {
    /// Where the jobs are, as in `hodei run --data-dir`, when no daemon has them.
    #[arg(long, value_name = "DIR", env = "HODEI_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

impl Place {
    fn dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    place: Place,
    /// Only jobs in this state, such as SUCCEEDED; may be repeated.
    #[arg(long)]
    state: Vec<JobStatus>,
    /// Only jobs with this label; may be repeated.
    #[arg(long, value_name = "K=V", value_parser = crate::args::pair)]
    label: Vec<(String, String)>,
    /// At most this many.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// All of them.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// The job.
    id: JobId,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Submit it again though it has not ended: two of it may run at once.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The jobs.
    #[arg(required = true)]
    ids: Vec<JobId>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The job.
    id: JobId,
    #[command(flatten)]
    place: Place,
    /// Go on with what the job writes until it ends; only with a daemon.
    #[arg(short, long, conflicts_with = "data_dir")]
    follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The jobs [default: all that are open].
    ids: Vec<JobId>,
    #[command(flatten)]
    place: Place,
}

/// Runs a command and returns the exit code.
pub(crate) async fn run(target: &Target, format: Format, command: JobCommand) -> Result<u8, CliError> {
    match command {
        JobCommand::Submit(args) => return submit::submit(target, format, *args).await,
        JobCommand::Wait(args) => return wait::wait(target, format, args).await,
        JobCommand::List(args) => read::list(target, format, args).await?,
        JobCommand::Logs(args) => read::logs(target, format, args).await?,
        JobCommand::Get(args) => {
            let hodei = target.open(args.place.dir()).await?;
            let job = hodei.get(args.id).await?;
            let mut shown = job_json(&job);
            if let Some(limits) = limits::of(&hodei, &job).await? {
                shown["limits"] = limits.into();
            }
            shown["spec"] = spec_json(job.spec());
            object(&shown, format)?;
        }
        JobCommand::Artifacts(args) => artifacts::artifacts(target, format, args).await?,
        JobCommand::Events(args) => {
            let hodei = target.open(args.place.dir()).await?;
            read::events(&hodei.history(args.id).await?, format)?;
        }
        JobCommand::Explain(args) => {
            let hodei = target.open(args.place.dir()).await?;
            let decision = hodei.explain(args.id).await?;
            let is_waiting = decision.job.status() == JobStatus::Pending;
            let troubles = if is_waiting { hodei.queue().await?.troubles } else { Vec::new() };
            explain::explain(&decision, &troubles, format)?;
        }
        JobCommand::Retry(RetryArgs { one, force }) => {
            let hodei = target.open(one.place.dir()).await?;
            let retried = if force { hodei.retry_open(one.id).await } else { hodei.retry(one.id).await };
            let job = retried.map_err(|error| CliError::retry(error, one.id))?;
            print(&submit::id_line(job.id(), format))?;
        }
        JobCommand::Watch(args) => watch::watch(target, format, args).await?,
        JobCommand::Cancel(args) => return cancel(target, format, args).await,
    }
    Ok(0)
}

/// Cancels each; one that cannot be does not keep the others.
async fn cancel(target: &Target, format: Format, args: CancelArgs) -> Result<u8, CliError> {
    let hodei = target.open(args.place.dir()).await?;
    let mut code = 0;
    for id in args.ids {
        match hodei.cancel(id).await {
            Ok(job) if format == Format::Json => print(&format!("{}\n", job_json(&job)))?,
            Ok(job) if is_asked_to_stop(&job) => print(&format!("{id} {}, asked to stop\n", job.status()))?,
            Ok(job) => print(&format!("{id} {}\n", job.status()))?,
            Err(error) => {
                crate::show::tell(error);
                code = crate::exit::OWN_FAILURE;
            }
        }
    }
    Ok(code)
}
