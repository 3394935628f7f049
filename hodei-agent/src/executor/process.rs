//! Supervises the process of one attempt, from its start to its report.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use hodei_core::id::AttemptId;
use hodei_core::job::{AttemptReport, FailureCause, Outcome, Usage};
use hodei_core::port::{BoxFuture, Clock, LogStream, timer};
use hodei_core::time::Timestamp;
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions};
use tokio::net::unix::pipe;

use crate::executor::blocking::blocking;
use crate::executor::host::cgroup::Cgroup;
use crate::executor::host::marks::{Marks, kill_marked, signal_marked};
use crate::executor::host::peak;
use crate::executor::host::survivors::{Survivors, is_starved};
use crate::executor::output::batcher::{FULL_BATCH_BYTES, LogBatcher, MAX_BATCH_AGE, MAX_READ_BYTES, Read};
use crate::executor::output::file_logger::{LogFile, LogFiles};
use crate::executor::script::Script;
use crate::executor::secrets::Needles;
use crate::executor::start::spawn::Spawned;
use crate::executor::{Chunk, Job, Output, Stop, StopReason, StopSignal};

/// How long the other processes of the group may write to the pipes after the main process ended.
const LINGER_TIMEOUT: Duration = Duration::from_millis(200);
/// How much longer while one of them waits for a processor: no output may be lost on a busy machine.
const STARVED_LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval between checks whether one of them waits for a processor.
const STARVED_POLL_INTERVAL: Duration = Duration::from_millis(40);
/// Time after KILL until a living process is given up: it belongs to another user, or hangs in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of reads from a pipe that another process holds: enough to drain the largest pipe, see pipe(7).
const MAX_FINAL_READS: usize = (1 << 20) / MAX_READ_BYTES;

/// How the main process ended.
#[derive(Debug, Clone, Copy)]
pub(in crate::executor) enum Exit {
    Code(i32),
    Signal(i32),
    Unknown,
}

/// A supervised process.
pub(in crate::executor) struct Run {
    clock: Arc<dyn Clock>,
    process: Spawned,
    memory_limit: u64,
    grace: Duration,
    limit: Option<BoxFuture<'static, ()>>,
    input: bytes::Bytes,
    stdout_open: bool,
    stderr_open: bool,
    batch: LogBatcher,
    idle: Option<BoxFuture<'static, ()>>,
    full: bool,
    stopped: Option<StopReason>,
    kill_at: Option<BoxFuture<'static, ()>>,
    /// Armed by the first KILL.
    give_up_at: Option<BoxFuture<'static, ()>>,
    exit: Option<(Exit, Timestamp)>,
    linger: Linger,
    /// Whether the main process was reaped or given up.
    reaped: bool,
    /// Whether its group was empty when it ended, and no other process had its pipes.
    left_no_process: bool,
    /// The usage of the main process and the descendants that it waited for.
    usage: Option<Usage>,
    attempt: AttemptId,
    marks: Arc<Marks>,
    /// `None` once there is output.
    log_files: Option<LogFiles>,
    file: Option<LogFile>,
    /// A write in progress. The next batch and the report wait for it, a stop does not.
    writing: Option<BoxFuture<'static, Option<LogFile>>>,
}

/// The time between the end of the main process and that of its group, in which the pipes are read. It is paused while
/// the platform has no room for output.
#[derive(Default)]
struct Linger {
    timer: Option<BoxFuture<'static, ()>>,
    /// The end, on the monotonic clock, like the fields below.
    ends: Duration,
    /// Time of the last check of the group.
    looked: Duration,
    starved_until: Duration,
    /// Start of the pause, if output has no room.
    paused: Option<Duration>,
    /// Whether the attempt was stopped in the meantime, which ends the time.
    is_over: bool,
}

impl Drop for Run {
    /// Kills the process if this is dropped before its end, as at the end of the runtime.
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.process.main.reap();
        }
    }
}

impl Run {
    pub(in crate::executor) fn new(
        clock: Arc<dyn Clock>,
        job: &Job,
        marks: Arc<Marks>,
        process: Spawned,
        log_files: Option<LogFiles>,
    ) -> Self {
        let limit = job.spec.timeout().map(|limit| clock.sleep(limit));
        Self {
            clock,
            memory_limit: job.spec.resources().memory_bytes,
            grace: job.spec.kill_grace(),
            limit,
            input: process.belongings.secrets.stdin().unwrap_or(job.spec.stdin()).clone(),
            stdout_open: true,
            stderr_open: true,
            batch: LogBatcher::new(process.belongings.secrets.needles()),
            idle: None,
            full: false,
            stopped: None,
            kill_at: None,
            give_up_at: None,
            exit: None,
            linger: Linger::default(),
            reaped: false,
            left_no_process: false,
            usage: None,
            attempt: job.attempt,
            marks,
            log_files,
            file: None,
            writing: None,
            process,
        }
    }

    /// Drives the process to its end. One `select!` over all events. Reading pauses while a full batch waits for room:
    /// a job that writes faster than the platform stores is slowed down and loses no output.
    pub(in crate::executor) async fn supervise(&mut self, mut stop: StopSignal, output: &Output) -> Exit {
        let mut heard = false;
        loop {
            if self.exit.is_some() && !self.reaped && self.is_drained() {
                self.settle().await;
            }
            if self.is_over() {
                break;
            }
            let reading = !self.full;
            tokio::select! {
                biased;
                ready = self.process.exit.readable(), if self.exit.is_none() => {
                    // The readiness is not cleared: the descriptor is not polled again once it has ended.
                    drop(ready);
                    self.on_exit();
                    if self.exit.is_some() {
                        output.process.stop();
                    }
                }
                changed = stop.changed(), if !heard && !self.reaped => {
                    let asked = *stop.borrow_and_update();
                    heard = changed.is_err();
                    if let Some(asked) = asked { self.on_stop(asked) }
                }
                () = timer(&mut self.limit), if self.exit.is_none() => {
                    let grace = self.grace;
                    self.on_stop(Stop { reason: StopReason::Timeout, grace });
                }
                // Before the pipes: a process that writes forever must not keep the job running.
                () = timer(&mut self.linger.timer), if reading || self.linger.is_over => self.on_linger().await,
                () = timer(&mut self.kill_at) => self.on_kill(),
                () = timer(&mut self.give_up_at) => self.on_give_up(),
                file = written(&mut self.writing) => self.file = file,
                room = output.room(self.batch.len()), if self.full && self.writing.is_none() => self.on_room(room),
                ready = self.process.stdout.readable(), if reading && self.stdout_open => {
                    self.stdout_open = ready.is_ok() && self.on_output(LogStream::Stdout) != Read::End;
                }
                ready = self.process.stderr.readable(), if reading && self.stderr_open => {
                    self.stderr_open = ready.is_ok() && self.on_output(LogStream::Stderr) != Read::End;
                }
                () = timer(&mut self.idle), if reading => self.on_idle(),
                () = writable(self.process.stdin.as_ref()), if self.process.stdin.is_some() => self.on_input(),
            }
        }
        self.exit.map_or(Exit::Unknown, |(exit, _)| exit)
    }

    fn is_drained(&self) -> bool {
        !self.stdout_open && !self.stderr_open
    }

    fn is_over(&mut self) -> bool {
        let is_done = self.exit.is_some() && self.reaped && self.is_drained();
        if is_done && self.batch.len() > 0 {
            self.full = true;
        }
        is_done && self.batch.len() == 0 && self.writing.is_none()
    }

    /// Handles the end of the main process. It stays a zombie, which reserves its number, until its group is killed:
    /// the other processes may still have output to write.
    fn on_exit(&mut self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let exit = match rustix::process::waitid(WaitId::Pid(self.process.main.pid()), options) {
            Ok(None) => return,
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            },
            Err(_) => Exit::Unknown,
        };
        (self.limit, self.give_up_at, self.process.stdin) = (None, None, None);
        self.exit = Some((exit, self.clock.now()));
        self.linger_for(LINGER_TIMEOUT);
        self.linger.starved_until = self.linger.ends + STARVED_LINGER_TIMEOUT;
        self.linger.paused = self.full.then_some(self.linger.looked);
    }

    fn linger_for(&mut self, time: Duration) {
        let now = self.clock.monotonic();
        let at_once = if self.linger.is_over { Duration::ZERO } else { time.min(STARVED_POLL_INTERVAL) };
        (self.linger.ends, self.linger.looked) = (now + time, now);
        self.linger.timer = Some(self.clock.sleep(at_once));
    }

    /// Ends the wait for the group's output, unless one of its processes waits for a processor: that time does not
    /// count.
    async fn on_linger(&mut self) {
        let now = self.clock.monotonic();
        let may_starve = !self.linger.is_over && now < self.linger.starved_until;
        if may_starve && is_starved(self.process.main.pid()) {
            self.linger.ends += now.saturating_sub(self.linger.looked);
        }
        let left = self.linger.ends.saturating_sub(now);
        if !self.linger.is_over && !left.is_zero() {
            return self.linger_for(left);
        }
        self.settle().await;
        self.close_pipes();
    }

    /// Kills the remaining processes of the group, then reaps the main process.
    async fn settle(&mut self) {
        let pid = self.process.main.pid();
        if !cfg!(hodei_break = "group_kill") {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        self.usage = self.process.main.reap().ok().map(|used| Usage {
            cpu_micros: micros(used.cpu),
            peak_memory_bytes: peak::of_child(used.peak_memory_bytes),
        });
        (self.reaped, self.process.known, self.kill_at) = (true, None, None);
        let in_groups = self.process.belongings.cgroup.as_ref().map_or(0, Cgroup::kill);
        // A process that may not be signalled also counts.
        let has_group = rustix::process::test_kill_process_group(pid) != Err(Errno::SRCH);
        let may_have_survivors = in_groups > 0 || has_group || self.stopped.is_some() || !self.is_drained();
        self.left_no_process = !may_have_survivors;
        if may_have_survivors && !cfg!(hodei_break = "group_kill") {
            kill_marked(&*self.clock, &self.marks.of_attempt(self.attempt)).await;
            if has_group {
                let survivors = Survivors::of_group(&*self.clock, pid).await;
                self.report_survivors(survivors);
            }
        }
    }

    /// Handles a request to stop. The first reason counts; a later request can only shorten the grace period. A process
    /// that ended by itself before keeps its own outcome.
    fn on_stop(&mut self, stop: Stop) {
        self.limit = None;
        if self.stopped.is_none() && self.has_exited() {
            if self.exit.is_some() {
                self.linger.is_over = true;
                self.linger_for(Duration::ZERO);
            }
            return;
        }
        let first = self.stopped.is_none();
        self.stopped.get_or_insert(stop.reason);
        if stop.grace.is_zero() {
            self.kill_at = Some(self.clock.sleep(Duration::ZERO));
            return;
        }
        if first {
            match &self.process.belongings.cgroup {
                // Signals each process once, including those without the mark.
                Some(cgroup) => cgroup.signal(Signal::TERM),
                None => {
                    let _ = rustix::process::kill_process_group(self.process.main.pid(), Signal::TERM);
                    signal_marked(&self.marks.of_attempt(self.attempt), Signal::TERM);
                }
            }
            self.kill_at = Some(self.clock.sleep(stop.grace));
        }
    }

    fn on_kill(&mut self) {
        self.kill();
        if self.exit.is_none() && self.give_up_at.is_none() {
            self.give_up_at = Some(self.clock.sleep(KILL_TIMEOUT));
        }
    }

    /// Ends the attempt without its main process, which does not die.
    fn on_give_up(&mut self) {
        if self.exit.is_some() || self.has_exited() {
            return;
        }
        self.report_survivors(Survivors::now(self.process.main.pid()));
        self.exit = Some((Exit::Unknown, self.clock.now()));
        (self.reaped, self.process.stdin) = (true, None);
        self.process.main.give_up();
        if let Some(known) = self.process.known.take() {
            known.give_up();
        }
        self.close_pipes();
    }

    /// Reports survivors in the log of the agent and in the output of the job.
    fn report_survivors(&mut self, survivors: Option<Survivors>) {
        let Some(survivors) = survivors else { return };
        tracing::warn!(attempt = %self.attempt, "{survivors}");
        self.batch.add_line(&format!("hodei: {survivors}\n"), self.clock.now());
        self.left_no_process = false;
    }

    /// Kills all processes of the attempt. Also by group: a process may have discarded its environment, and the mark in
    /// it.
    fn kill(&self) {
        if !self.reaped {
            let _ = rustix::process::kill_process_group(self.process.main.pid(), Signal::KILL);
        }
        if let Some(cgroup) = &self.process.belongings.cgroup {
            cgroup.kill();
        }
        signal_marked(&self.marks.of_attempt(self.attempt), Signal::KILL);
    }

    fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        matches!(rustix::process::waitid(WaitId::Pid(self.process.main.pid()), options), Ok(Some(_)))
    }

    fn on_output(&mut self, stream: LogStream) -> Read {
        let end = match stream {
            LogStream::Stdout => &self.process.stdout,
            LogStream::Stderr => &self.process.stderr,
        };
        let read = self.batch.read(stream, end, self.clock.now());
        if self.batch.len() >= FULL_BATCH_BYTES {
            self.full = true;
            self.linger.paused = self.exit.map(|_| self.clock.monotonic());
        } else if self.batch.len() > 0 && self.idle.is_none() {
            self.idle = Some(self.clock.sleep(MAX_BATCH_AGE));
        }
        read
    }

    fn on_idle(&mut self) {
        self.full = true;
        self.linger.paused = self.exit.map(|_| self.clock.monotonic());
    }

    fn on_room(&mut self, room: Option<super::Room<'_>>) {
        let chunks = self.batch.take(self.clock.now());
        (self.full, self.idle) = (false, None);
        if let Some(since) = self.linger.paused.take() {
            let now = self.clock.monotonic();
            let paused = now.saturating_sub(since);
            self.linger.ends += paused;
            self.linger.starved_until += paused;
            self.linger.looked = now;
        }
        if chunks.is_empty() {
            return;
        }
        self.write_to_file(&chunks);
        if let Some(room) = room {
            room.fill(chunks);
        }
    }

    fn write_to_file(&mut self, chunks: &[Chunk]) {
        let (files, file) = (self.log_files.take(), self.file.take());
        if files.is_none() && file.is_none() {
            return;
        }
        let (clock, attempt, chunks) = (self.clock.clone(), self.attempt, chunks.to_vec());
        self.writing = Some(Box::pin(async move {
            let file = match files {
                Some(files) => files.open(clock.clone(), attempt).await,
                None => file,
            };
            file?.write(clock, chunks).await
        }));
    }

    fn on_input(&mut self) {
        let Some(end) = &self.process.stdin else { return };
        match end.try_write(&self.input) {
            Ok(written) => self.input.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // The job closed its stdin and does not want the rest.
            Err(_) => self.input.clear(),
        }
        if self.input.is_empty() {
            self.process.stdin = None;
        }
    }

    /// Drains and closes the pipes, which another process may hold forever.
    fn close_pipes(&mut self) {
        self.left_no_process = false;
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            // No more than a pipe holds, even if a process keeps writing.
            let _ = (0..MAX_FINAL_READS).any(|_| self.on_output(stream) != Read::Some);
            self.batch.end(stream, self.clock.now());
        }
        (self.stdout_open, self.stderr_open) = (false, false);
    }

    /// Releases its secrets and its group, and returns its script. Waits on another thread if the removal of the group
    /// is slow.
    pub(in crate::executor) async fn end(mut self) -> Option<Script> {
        let script = self.process.belongings.script.take();
        if self.process.belongings.cgroup.as_ref().is_some_and(Cgroup::is_slow_to_drop) {
            blocking(move || drop(self)).await;
        }
        script
    }

    /// Returns the secrets to mask in everything that is reported about it.
    pub(in crate::executor) fn needles(&self) -> Option<Arc<Needles>> {
        self.process.belongings.secrets.needles().cloned()
    }

    /// Returns whether all of its processes are in a control group.
    pub(in crate::executor) fn is_contained(&self) -> bool {
        self.process.belongings.cgroup.is_some()
    }

    /// Returns whether it is known to have left no process behind.
    pub(in crate::executor) fn left_no_process(&self) -> bool {
        self.left_no_process
    }

    pub(in crate::executor) fn report(&self, started_at: Timestamp, ended: Exit) -> AttemptReport {
        let finished_at = self.exit.map_or(started_at, |(_, at)| at);
        let (own, exit_code) = match ended {
            Exit::Code(0) => (Outcome::Succeeded, Some(0)),
            Exit::Code(code) => (Outcome::Failed(FailureCause::Exit(code)), Some(code)),
            Exit::Signal(signal) => (Outcome::Failed(FailureCause::Signal(signal)), None),
            Exit::Unknown => (
                Outcome::Failed(FailureCause::Infrastructure(
                    "another part of this program took the exit status".into(),
                )),
                None,
            ),
        };
        let own = self.by_memory(own);
        let outcome = self.stopped.map_or(own, stopped);
        let (started_at, usage, artifacts) = (Some(started_at), self.used(), Vec::new());
        let interrupted = self.stopped == Some(StopReason::Evict);
        AttemptReport {
            outcome,
            exit_code,
            started_at,
            finished_at,
            log_end: 0,
            usage,
            artifacts,
            interrupted,
        }
    }

    /// Turns a failure into one by lack of memory if the kernel killed any of its processes for that.
    fn by_memory(&self, own: Outcome) -> Outcome {
        let is_failed = matches!(own, Outcome::Failed(FailureCause::Exit(_) | FailureCause::Signal(_)));
        let kills = self.process.belongings.cgroup.as_ref().map_or(0, Cgroup::oom_kills);
        if !is_failed || kills == 0 {
            return own;
        }
        let limit = self.memory_limit;
        Outcome::Failed(FailureCause::OutOfMemory(format!(
            "its processes exceeded their memory limit of {limit} bytes"
        )))
    }

    /// Returns the usage counted by the group, or else that of the main process.
    fn used(&self) -> Option<Usage> {
        let own = self.usage.unwrap_or_default();
        let Some(cgroup) = &self.process.belongings.cgroup else { return self.usage };
        let all = cgroup.usage();
        let or = |counted: u64, own: u64| if counted > 0 { counted } else { own };
        Some(Usage {
            cpu_micros: or(all.cpu_micros, own.cpu_micros),
            peak_memory_bytes: or(all.peak_memory_bytes, own.peak_memory_bytes),
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

async fn written(writing: &mut Option<BoxFuture<'static, Option<LogFile>>>) -> Option<LogFile> {
    match writing {
        Some(in_progress) => {
            let file = in_progress.await;
            *writing = None;
            file
        }
        None => std::future::pending().await,
    }
}

async fn writable(end: Option<&pipe::Sender>) {
    match end {
        Some(end) => {
            let mut ready = pin!(end.writable());
            let _ = poll_fn(|context| ready.as_mut().poll(context)).await;
        }
        None => std::future::pending().await,
    }
}

/// Returns the outcome of a stopped attempt.
pub(crate) fn stopped(reason: StopReason) -> Outcome {
    match reason {
        StopReason::Timeout => Outcome::TimedOut,
        StopReason::Evict => {
            Outcome::Failed(FailureCause::Infrastructure("its worker was told to stop".into()))
        }
        StopReason::Cancel | StopReason::Abandon => Outcome::Cancelled,
    }
}
