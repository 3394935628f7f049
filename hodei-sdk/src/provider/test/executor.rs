//! Executor that pretends to run scripted jobs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hodei_agent::{Chunk, Executor, Job, Output, StopReason, StopSignal};
use hodei_core::id::AttemptId;
use hodei_core::job::{AttemptReport, Command, FailureCause, JobSpec, JobSpecBuilder, Outcome};
use hodei_core::port::{BoxFuture, Clock, LogStream};

/// Behaviour of a simulated job, encoded in the command of its spec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScriptedJob {
    /// Run time.
    pub run: Duration,
    /// Number of lines that it writes, spread over its run.
    pub lines: u32,
    /// Exit code.
    pub exit: i32,
    /// Number of attempts that fail with exit code 1 before that.
    pub failures: u32,
}

impl ScriptedJob {
    /// Returns a spec for this job.
    pub fn spec(self) -> JobSpecBuilder {
        let Self { run, lines, exit, failures } = self;
        let words = [run.as_micros() as u64, u64::from(lines), exit as u64, u64::from(failures)];
        JobSpec::command(std::iter::once("scripted".to_owned()).chain(words.map(|word| word.to_string())))
    }

    /// Returns the output of the attempt with this number.
    pub fn output(self, attempt: u32) -> String {
        (0..self.lines).map(|line| line_of(attempt, line)).collect()
    }

    /// Decodes the job from a spec that [`spec`](Self::spec) made.
    pub fn of(spec: &JobSpec) -> Option<Self> {
        let Command::Argv(argv) = spec.what() else { return None };
        let [program, words @ ..] = &argv[..] else { return None };
        let words: Vec<u64> = words.iter().map_while(|word| word.parse().ok()).collect();
        let [run, lines, exit, failures] = words[..] else { return None };
        let run = Duration::from_micros(run);
        (program == "scripted").then_some(Self {
            run,
            lines: lines as u32,
            exit: exit as i32,
            failures: failures as u32,
        })
    }
}

fn line_of(attempt: u32, line: u32) -> String {
    format!("attempt {attempt} line {line}\n")
}

/// Number of starts of each attempt, counted by the executor.
pub(super) type Starts = Arc<Mutex<BTreeMap<AttemptId, u32>>>;

/// Pretends to run jobs.
#[derive(Debug)]
pub(super) struct ScriptedExecutor {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) starts: Starts,
}

#[async_trait]
impl Executor for ScriptedExecutor {
    async fn run(&self, job: Job, mut stop: StopSignal, output: Output) -> AttemptReport {
        let finished_at = self.clock.now();
        let Some(script) = ScriptedJob::of(&job.spec) else {
            let outcome = Outcome::Failed(FailureCause::CommandNotFound(job.spec.name()));
            return AttemptReport::unstarted(outcome, finished_at);
        };
        *self.starts.lock().unwrap_or_else(PoisonError::into_inner).entry(job.attempt).or_default() += 1;
        let started_at = self.clock.now();
        output.started(started_at).await;
        let mut limit: BoxFuture<'static, ()> = match job.spec.timeout() {
            Some(limit) => self.clock.sleep(limit),
            None => Box::pin(std::future::pending()),
        };
        let work = self.work(script, job.attempt.number, &output);
        let stopped = tokio::select! {
            biased;
            () = work => None,
            () = &mut limit => Some(StopReason::Timeout),
            reason = stopped(&mut stop) => Some(reason),
        };
        let exit = if job.attempt.number <= script.failures { 1 } else { script.exit };
        let (outcome, exit_code) = match stopped {
            None if exit == 0 => (Outcome::Succeeded, Some(0)),
            None => (Outcome::Failed(FailureCause::Exit(exit)), Some(exit)),
            Some(StopReason::Timeout) => (Outcome::TimedOut, None),
            Some(_) => (Outcome::Cancelled, None),
        };
        AttemptReport {
            outcome,
            exit_code,
            started_at: Some(started_at),
            finished_at: self.clock.now(),
            log_end: 0,
            usage: None,
            artifacts: Vec::new(),
            interrupted: false,
        }
    }
}

impl ScriptedExecutor {
    async fn work(&self, script: ScriptedJob, attempt: u32, output: &Output) {
        let step = script.run / (script.lines + 1);
        for line in 0..script.lines {
            self.clock.sleep(step).await;
            let (stream, bytes) = (LogStream::Stdout, line_of(attempt, line).into());
            output.write(Chunk { stream, at: self.clock.now(), bytes }).await;
        }
        self.clock.sleep(step).await;
    }
}

async fn stopped(stop: &mut StopSignal) -> StopReason {
    loop {
        if let Some(stop) = *stop.borrow_and_update() {
            return stop.reason;
        }
        if stop.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
