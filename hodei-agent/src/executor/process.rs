//! One process under supervision.

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
use crate::executor::output::batcher::{AT_ONCE, FULL, IDLE, LogBatcher, Read};
use crate::executor::output::file_logger::{LogFile, LogFiles};
use crate::executor::script::Script;
use crate::executor::secrets::Needles;
use crate::executor::start::spawn::Spawned;
use crate::executor::{Chunk, Job, Output, Stop, StopReason, StopSignal};

/// After the main process ended, how long the others of its group may write to its pipes.
const LINGER: Duration = Duration::from_millis(200);
/// How much longer while one of them wants a processor and has none: a busy machine must not cost output.
const LINGER_STARVED: Duration = Duration::from_secs(1);
/// Between two looks at whether one does.
const STARVED_POLL: Duration = Duration::from_millis(40);
/// From KILL until a process that still lives is given up: it belongs to another user, or hangs in the kernel.
const GIVE_UP: Duration = Duration::from_secs(2);

/// Reads of a pipe in somebody else's hands: as many as the largest pipe is full of, see pipe(7).
const READS: usize = (1 << 20) / AT_ONCE;

/// How the main process ended.
#[derive(Debug, Clone, Copy)]
pub(in crate::executor) enum Exit {
    Code(i32),
    Signal(i32),
    Unknown,
}

/// One process under supervision.
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
    /// The main process was waited for, or given up.
    reaped: bool,
    /// Its group was empty when it ended, and nobody else had its pipes.
    left_nobody: bool,
    /// What the main process and those that it waited for used.
    usage: Option<Usage>,
    attempt: AttemptId,
    marks: Arc<Marks>,
    /// Until there is output.
    log_files: Option<LogFiles>,
    file: Option<LogFile>,
    /// Under way: the next batch and the report wait for it, no stop does.
    writing: Option<BoxFuture<'static, Option<LogFile>>>,
}

/// The time of the pipes between the end of the main process and that of its group. While the platform has no room for
/// output it stands still.
#[derive(Default)]
struct Linger {
    timer: Option<BoxFuture<'static, ()>>,
    /// By the monotonic clock, as all that follows.
    ends: Duration,
    /// When the group was looked at last.
    looked: Duration,
    starved_until: Duration,
    /// Since when there is no room.
    paused: Option<Duration>,
    /// The attempt was stopped meanwhile: it waits for nothing.
    is_over: bool,
}

impl Drop for Run {
    /// Dropped before its end, as when the runtime goes: nobody else would stop the process.
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
            left_nobody: false,
            usage: None,
            attempt: job.attempt,
            marks,
            log_files,
            file: None,
            writing: None,
            process,
        }
    }

    /// Drives the process to its end. One `select!` over everything that can happen; reading pauses while a
    /// full batch waits for room, so a job that writes faster than the platform stores is slowed, not cut.
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
                    // Level triggered by hand: the descriptor is dropped right after.
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
                // Before the pipes: somebody who writes for ever must not keep the job.
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

    /// The main process ended. It stays a zombie, which holds its number, until its group is killed: the others may still
    /// have output of it in hand.
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
        self.linger_for(LINGER);
        self.linger.starved_until = self.linger.ends + LINGER_STARVED;
        self.linger.paused = self.full.then_some(self.linger.looked);
    }

    fn linger_for(&mut self, time: Duration) {
        let now = self.clock.monotonic();
        let at_once = if self.linger.is_over { Duration::ZERO } else { time.min(STARVED_POLL) };
        (self.linger.ends, self.linger.looked) = (now + time, now);
        self.linger.timer = Some(self.clock.sleep(at_once));
    }

    /// Some of the group still have the pipes. Time in which one of them waits for a processor does not count.
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

    /// Kills what is left of the group, and reaps the main process behind it.
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
        // One that may not be signalled is there too.
        let has_group = rustix::process::test_kill_process_group(pid) != Err(Errno::SRCH);
        let left_something = in_groups > 0 || has_group || self.stopped.is_some() || !self.is_drained();
        self.left_nobody = !left_something;
        if left_something && !cfg!(hodei_break = "group_kill") {
            kill_marked(&*self.clock, &self.marks.of_attempt(self.attempt)).await;
            if has_group {
                let survivors = Survivors::of_group(&*self.clock, pid).await;
                self.tell_of(survivors);
            }
        }
    }

    /// The first reason counts; a later call can only be harder. A process that ended by itself before keeps
    /// its own outcome.
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
                // Once each, and also those that threw the mark away.
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
            self.give_up_at = Some(self.clock.sleep(GIVE_UP));
        }
    }

    /// The main process does not die: its attempt ends without it.
    fn on_give_up(&mut self) {
        if self.exit.is_some() || self.has_exited() {
            return;
        }
        self.tell_of(Survivors::now(self.process.main.pid()));
        self.exit = Some((Exit::Unknown, self.clock.now()));
        (self.reaped, self.process.stdin) = (true, None);
        self.process.main.give_up();
        if let Some(known) = self.process.known.take() {
            known.give_up();
        }
        self.close_pipes();
    }

    /// In the log of the agent and in the output of the job.
    fn tell_of(&mut self, survivors: Option<Survivors>) {
        let Some(survivors) = survivors else { return };
        tracing::warn!(attempt = %self.attempt, "{survivors}");
        self.batch.say(&format!("hodei: {survivors}\n"), self.clock.now());
        self.left_nobody = false;
    }

    /// Also by group: a process may have thrown its environment, and the mark in it, away.
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
        if self.batch.len() >= FULL {
            self.full = true;
            self.linger.paused = self.exit.map(|_| self.clock.monotonic());
        } else if self.batch.len() > 0 && self.idle.is_none() {
            self.idle = Some(self.clock.sleep(IDLE));
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
            // Whoever closes its stdin does not want the rest.
            Err(_) => self.input.clear(),
        }
        if self.input.is_empty() {
            self.process.stdin = None;
        }
    }

    /// Another process may hold the pipes for ever: what is in them is taken, then they are closed.
    fn close_pipes(&mut self) {
        self.left_nobody = false;
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            // Not more than a pipe holds, whoever goes on writing.
            let _ = (0..READS).any(|_| self.on_output(stream) != Read::Some);
            self.batch.end(stream, self.clock.now());
        }
        (self.stdout_open, self.stderr_open) = (false, false);
    }

    /// Takes away what it had, but for its script, which is returned. A group that is still busy is waited for beside.
    pub(in crate::executor) async fn end(mut self) -> Option<Script> {
        let script = self.process.belongings.script.take();
        if self.process.belongings.cgroup.as_ref().is_some_and(Cgroup::is_slow_to_drop) {
            blocking(move || drop(self)).await;
        }
        script
    }

    /// What nothing that is told of it must show.
    pub(in crate::executor) fn needles(&self) -> Option<Arc<Needles>> {
        self.process.belongings.secrets.needles().cloned()
    }

    /// Whether a process that it leaves behind cannot be anywhere but in its group.
    pub(in crate::executor) fn is_contained(&self) -> bool {
        self.process.belongings.cgroup.is_some()
    }

    /// Whether it is not known to have left a process behind.
    pub(in crate::executor) fn left_nobody(&self) -> bool {
        self.left_nobody
    }

    pub(in crate::executor) fn report(&self, started_at: Timestamp, ended: Exit) -> AttemptReport {
        let finished_at = self.exit.map_or(started_at, |(_, at)| at);
        let (own, exit_code) = match ended {
            Exit::Code(0) => (Outcome::Succeeded, Some(0)),
            Exit::Code(code) => (Outcome::Failed(FailureCause::Exit(code)), Some(code)),
            Exit::Signal(signal) => (Outcome::Failed(FailureCause::Signal(signal)), None),
            Exit::Unknown => (
                Outcome::Failed(FailureCause::Infrastructure(
                    "the exit status was taken by somebody else".into(),
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

    /// A job that failed after the kernel killed for want of memory failed of that, whichever of its processes it was.
    fn by_memory(&self, own: Outcome) -> Outcome {
        let is_failed = matches!(own, Outcome::Failed(FailureCause::Exit(_) | FailureCause::Signal(_)));
        let kills = self.process.belongings.cgroup.as_ref().map_or(0, Cgroup::oom_kills);
        if !is_failed || kills == 0 {
            return own;
        }
        let limit = self.memory_limit;
        Outcome::Failed(FailureCause::OutOfMemory(format!(
            "its processes passed their limit of {limit} bytes"
        )))
    }

    /// By the groups where they counted, else by what the system says of the main process.
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
        Some(under_way) => {
            let file = under_way.await;
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

/// The outcome of an attempt that was stopped.
pub(crate) fn stopped(reason: StopReason) -> Outcome {
    match reason {
        StopReason::Timeout => Outcome::TimedOut,
        StopReason::Evict => {
            Outcome::Failed(FailureCause::Infrastructure("its worker was told to stop".into()))
        }
        StopReason::Cancel | StopReason::Abandon => Outcome::Cancelled,
    }
}
