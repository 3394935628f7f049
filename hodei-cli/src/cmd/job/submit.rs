//! `hodei job submit`: submits one job by its options, or many by the lines of a file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use hodei_sdk::id::JobId;
use hodei_sdk::{Hodei, Job, JobDocument, JobDocumentError, JobHandle, JobSpec};
use serde_json::json;
use tokio::sync::mpsc;

use crate::cmd::job::place::Place;
use crate::cmd::job::wait::wait_for_all;
use crate::data_dir::run_until;
use crate::error::CliError;
use crate::exit;
use crate::job_json::job_json;
use crate::limits;
use crate::spec_args::{SpecArgs, in_this_directory};
use crate::target::Target;
use crate::term::progress::Progress;
use crate::term::show::{Format, print, tell};

#[derive(Debug, Args)]
#[command(after_help = "JOBS OF A FILE:
  Each line is one JSON object. It needs one of `command` (a list), `shell` (a line) or `script` (a text, with
  `interpreter` and `extension`); {\"command\": [\"true\"]} is enough. Optional fields: id, name, image, env, working_dir,
  stdin, timeout, kill_grace, resources {cpu_millis, memory_bytes, disk_bytes, gpus, pids}, constraints, priority,
  retry {max, max_infrastructure, backoff {initial, max}, on}, at_most_once, idempotency_key,
  concurrency {key, limit}, not_before, start_by, labels, secrets (names, or \"NAME:stdin\"),
  inputs (\"JOB/NAME:PATH\"), outputs (\"PATH\" or \"PATH:always\"), keep_workspace. Durations are texts such as \"1.5s\".
  A refused line is reported, and the other lines are submitted. With an `id` or an `idempotency_key` in each line, the
  same file can be submitted again. With --wait and --output json, each job is printed when it ends, instead of its id.

EXAMPLES:
  id=$(hodei job submit -- make -C /srv/app) && hodei job wait \"$id\"
  hodei job submit --from jobs.jsonl --wait
  seq 9 | sed 's/.*/{\"command\": [\"sleep\", \"&\"]}/' | hodei job submit --from -")]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    place: Place,
    /// Submit the jobs in this file, or with `-` in standard input: one JSON object per line.
    #[arg(long, value_name = "FILE|-")]
    from: Option<PathBuf>,
    /// Wait until all jobs end, and exit with 0 if all succeeded; in a data directory, run them.
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(target: &Target, format: Format, args: SubmitArgs) -> Result<u8, CliError> {
    let SubmitArgs { spec, place, from, wait } = args;
    // Checked before a platform is opened: a malformed spec needs no daemon.
    let source = match from {
        Some(_) if spec != SpecArgs::default() => return Err(CliError::TwoSources),
        Some(path) => Source::Lines(Lines::open(&path)?),
        None => Source::One(Box::new(spec.spec()?)),
    };
    let set_dir: SetDirectory =
        if target.dir(place.dir()).is_some() { in_this_directory } else { |spec: JobSpec| spec };
    match target.dir(place.dir()).filter(|_| wait) {
        Some(dir) => {
            run_until(dir, |hodei| async move { all(&hodei, source, set_dir, format, true).await }).await
        }
        None => all(&target.open(place.dir()).await?, source, set_dir, format, wait).await,
    }
}

/// Sets the working directory of a job that names none.
type SetDirectory = fn(JobSpec) -> JobSpec;

enum Source {
    One(Box<JobSpec>),
    Lines(Lines),
}

/// Submits all jobs of the source, then waits for their ends if `wait`.
async fn all(
    hodei: &Hodei,
    source: Source,
    set_dir: SetDirectory,
    format: Format,
    wait: bool,
) -> Result<u8, CliError> {
    // A program gets one object for each job: its end, not its id.
    let ended_json = wait && format == Format::Json;
    let say_id = |job: &JobHandle| if ended_json { String::new() } else { submitted_line(job, format) };
    let (ids, refused) = match source {
        Source::One(spec) => {
            let has_limits = spec.resources().limit().is_some();
            let job = hodei.submit(set_dir(*spec)).await?;
            print(&say_id(&job))?;
            tell_found(&job).await;
            limits::warn(hodei, has_limits).await;
            (vec![job.id()], 0)
        }
        Source::Lines(lines) => many(hodei, lines, set_dir, say_id, wait).await?,
    };
    let submitted = if refused == 0 { 0 } else { exit::OWN_FAILURE };
    if !wait {
        return Ok(submitted);
    }
    let say = |job: &Job| if ended_json { print(&format!("{}\n", job_json(job))) } else { Ok(()) };
    let ended = wait_for_all(hodei, ids, say).await?;
    if ended.failed > 0 && ended.jobs > 1 {
        tell(format_args!("{} of {} jobs did not succeed", ended.failed, ended.jobs));
    }
    Ok(if submitted == 0 { ended.code } else { submitted })
}

/// Formats an id as a line for a shell, or as JSON for a program.
pub(super) fn id_line(id: JobId, format: Format) -> String {
    match format {
        Format::Table => format!("{id}\n"),
        Format::Json => format!("{}\n", json!({ "id": id.to_string() })),
    }
}

/// Formats the answer to a submit as [`id_line`] does; the JSON also says whether the submit created the job.
fn submitted_line(job: &JobHandle, format: Format) -> String {
    match format {
        Format::Table => id_line(job.id(), format),
        Format::Json => {
            let outcome = if job.is_new() { "created" } else { "found" };
            format!("{}\n", json!({ "id": job.id().to_string(), "outcome": outcome }))
        }
    }
}

/// If a submit found an existing job, says on stderr what state it is in and how to run it again.
pub(crate) async fn tell_found(job: &JobHandle) {
    if job.is_new() {
        return;
    }
    let id = job.id();
    // The message is useful without the state as well.
    let found = job.get().await.ok();
    let state = found.as_ref().map_or_else(|| "stored".to_owned(), |job| job.status().to_string());
    let force = if found.is_some_and(|job| !job.is_terminal()) { " --force" } else { "" };
    tell(format_args!(
        "no job was submitted, since job {id} has the same key or id and is {state}: run it again with \
         `hodei job retry {id}{force}`, or submit with another key"
    ));
}

/// Submits the lines in batches, each of the lines read so far. Returns the ids, if `keep_ids`, and the number of
/// refused lines.
async fn many(
    hodei: &Hodei,
    mut lines: Lines,
    set_dir: SetDirectory,
    say_id: impl Fn(&JobHandle) -> String,
    keep_ids: bool,
) -> Result<(Vec<JobId>, usize), CliError> {
    let (mut ids, mut refused, mut total, mut found, mut has_limits) = (Vec::new(), 0, 0, 0, false);
    let progress = Progress::new("submitted", None);
    loop {
        let read = lines.next().await?;
        if read.is_empty() {
            break;
        }
        total += read.len();
        let (mut jobs, mut numbers, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
        for (number, line) in read {
            match line.and_then(|text| parse(&text)) {
                Ok((id, spec)) => {
                    numbers.push((number, spec.resources().limit().is_some()));
                    jobs.push((id, set_dir(spec)));
                }
                Err(why) => refusals.push((number, why)),
            }
        }
        let mut id_lines = String::new();
        for ((number, is_limited), answer) in numbers.into_iter().zip(hodei.submit_many(jobs).await?) {
            match answer {
                Ok(job) => {
                    id_lines.push_str(&say_id(&job));
                    has_limits |= is_limited;
                    found += usize::from(!job.is_new());
                    progress.more(1);
                    ids.extend(keep_ids.then_some(job.id()));
                }
                Err(error) => refusals.push((number, error.to_string())),
            }
        }
        refused += refusals.len();
        refusals.sort_unstable();
        progress.aside(|| {
            for (number, why) in refusals {
                tell(format_args!("{}:{number}: {why}", lines.name));
            }
            print(&id_lines)
        })?;
    }
    progress.end();
    limits::warn(hodei, has_limits).await;
    if found > 0 {
        tell(format_args!(
            "{found} of {total} jobs existed before, by their keys or ids: run one that has ended again with \
             `hodei job retry ID`"
        ));
    }
    if refused > 0 {
        tell(format_args!("{refused} of {total} lines were refused"));
    }
    if total == 0 {
        tell(format_args!("{} has no jobs", lines.name));
    }
    Ok((ids, refused))
}

/// A line, or the reason why it is refused.
type Line = Result<String, String>;

/// The lines of a file. A thread of its own reads them, since their writer may be slow.
struct Lines {
    name: String,
    read: mpsc::Receiver<Result<(usize, Line), CliError>>,
}

/// Number of lines submitted at once.
const MAX_BATCH_LINES: usize = 1_000;
/// Longest line in bytes; every valid spec is shorter.
const MAX_LINE_BYTES: u64 = 16 << 20;

impl Lines {
    fn open(path: &Path) -> Result<Self, CliError> {
        let name = if path.as_os_str() == "-" { "standard input".into() } else { path.display().to_string() };
        let failed = {
            let name = name.clone();
            move |error| CliError::Source { name: name.clone(), error }
        };
        let source: Box<dyn Read + Send> = match path.to_str() {
            Some("-") => Box::new(std::io::stdin()),
            _ => Box::new(File::open(path).map_err(&failed)?),
        };
        let (lines, read) = mpsc::channel(MAX_BATCH_LINES);
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            for number in 1.. {
                let line = match line(&mut source, MAX_LINE_BYTES) {
                    Ok(None) => return,
                    Ok(Some(Ok(line))) if line.trim_start_matches(BYTE_ORDER_MARK).trim().is_empty() => {
                        continue;
                    }
                    Ok(Some(line)) => Ok((number, line)),
                    Err(error) => Err(failed(error)),
                };
                let failed = line.is_err();
                // The receiver is gone when the program is about to end.
                if lines.blocking_send(line).is_err() || failed {
                    return;
                }
            }
        });
        Ok(Self { name, read })
    }

    /// Returns the lines read so far, at least one; empty at the end of the file.
    async fn next(&mut self) -> Result<Vec<(usize, Line)>, CliError> {
        let mut read = Vec::new();
        self.read.recv_many(&mut read, MAX_BATCH_LINES).await;
        read.into_iter().collect()
    }
}

/// Byte order mark, which some editors write before the first line.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Reads the next line; `None` at the end. Bytes that are not UTF-8 are replaced: the parser then refuses the value by
/// name. A line longer than `limit` bytes is skipped without holding it in memory.
fn line(source: &mut impl BufRead, limit: u64) -> std::io::Result<Option<Line>> {
    let mut bytes = Vec::new();
    if source.by_ref().take(limit).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.len() as u64 == limit && bytes.last() != Some(&b'\n') && !source.fill_buf()?.is_empty() {
        source.skip_until(b'\n')?;
        return Ok(Some(Err(format!("the line is longer than {limit} bytes"))));
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(Some(Ok(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text).to_owned())))
}

fn parse(line: &str) -> Result<(Option<JobId>, JobSpec), String> {
    let job: JobDocument = line.parse().map_err(|error: JobDocumentError| error.to_string())?;
    Ok((job.id, job.spec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_skipped() {
        let mut source = BufReader::with_capacity(3, &b"\xef\xbb\xbfone\n12345678\n12345678901\nlast"[..]);
        let mut read = Vec::new();
        while let Some(next) = line(&mut source, 9).unwrap() {
            read.push(next);
        }
        let long = Err("the line is longer than 9 bytes".to_owned());
        assert_eq!(read, [Ok("one\n".into()), Ok("12345678\n".into()), long, Ok("last".into())]);
    }
}
