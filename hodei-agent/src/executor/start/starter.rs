//! Starts processes. What a process has of the thread that started it, and not of its program, is what its job is to
//! begin with: the file mode creation mask, the niceness and the control group.
//!
//! Where the threads of this process have the mask and the niceness of its jobs, the caller's thread starts them: to hand
//! a start to another thread costs 30 µs of processor time. Elsewhere threads of their own do, and also those programs
//! that have to be waited for.

use std::collections::VecDeque;
use std::io;
use std::num::NonZero;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hodei_core::id::AttemptId;
use tokio::sync::oneshot;

use crate::executor::host::cgroup::KeptGroup;
use crate::executor::host::children::{Children, Known};
use crate::executor::host::main_process::MainProcess;
use crate::executor::host::memory_score;
use crate::executor::host::posix::Program;
use crate::executor::start::start_state::StartState;

/// Threads at most for each processor: one starts, another waits for a disk.
const THREADS_FOR_EACH_CORE: usize = 2;
/// Tries of a program that is busy, each after a millisecond.
const BUSY_TRIES: usize = 20;

/// A process that runs, and the group that it is in. Dropped, it is ended, reaped, forgotten, and its group is emptied.
#[derive(Debug)]
pub(in crate::executor) struct Started {
    pub(in crate::executor) main: MainProcess,
    pub(in crate::executor) known: Known,
    pub(in crate::executor) group: Option<KeptGroup>,
}

/// Starts processes, with threads where it takes some: as many as starts are under way, up to a limit, and kept. Dropped,
/// they end.
#[derive(Debug)]
pub(in crate::executor) struct Starters {
    needs_a_thread: bool,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: StartState,
    /// Threads at most.
    limit: usize,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    orders: VecDeque<Order>,
    threads: usize,
    idle: usize,
    is_over: bool,
}

#[derive(Debug)]
struct Order {
    start: Start,
    answer: oneshot::Sender<io::Result<Started>>,
}

/// A process to be started.
#[derive(Debug)]
struct Start {
    attempt: AttemptId,
    program: Program,
    group: Option<KeptGroup>,
    children: Children,
}

/// What came of a start.
enum Tried {
    /// Also whether the thread is in the group that it was in before.
    Done { started: io::Result<Started>, is_back: bool },
    /// A program that was written a moment ago is busy for as long as another process is being started, which has the open
    /// files of this one until it is.
    Busy(Start),
}

impl Start {
    /// Tries once, on this thread.
    fn carry_out(self, state: &StartState) -> Tried {
        let Self { attempt, program, group, children } = self;
        // A group that cannot be entered is given back: the job runs without.
        let group = group.filter(|group| group.enter().is_ok());
        let started = children.start(attempt, || {
            let _raised = memory_score::raise(state.oom_score_adj);
            MainProcess::start(&program)
        });
        let is_back = group.as_ref().is_none_or(|group| group.leave().is_ok());
        match started {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && is_back => {
                Tried::Busy(Self { attempt, program, group, children })
            }
            started => {
                let started = started.map(|(main, known)| Started { main, known, group });
                Tried::Done { started, is_back }
            }
        }
    }
}

impl Starters {
    pub(in crate::executor) fn new(state: StartState) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let (limit, queue, wake) = (cores * THREADS_FOR_EACH_CORE, Mutex::default(), Condvar::new());
        let needs_a_thread = state.needs_a_thread();
        Self { needs_a_thread, shared: Arc::new(Shared { state, limit, queue, wake }) }
    }

    /// Starts a program for an attempt, in a group if there is one. Dropped before its end, nothing is left running. May
    /// block for as long as the system takes to load a program.
    ///
    /// # Errors
    /// Those of [`Program::start`], and when the system gives no thread.
    pub(in crate::executor) async fn start(
        &self,
        children: &Children,
        attempt: AttemptId,
        program: Program,
        group: Option<KeptGroup>,
    ) -> io::Result<Started> {
        let start = Start { attempt, program, group, children: children.clone() };
        let start = if self.needs_a_thread {
            start
        } else {
            match start.carry_out(&self.shared.state) {
                Tried::Done { started, .. } => return started,
                Tried::Busy(start) => start,
            }
        };
        let (answer, answered) = oneshot::channel();
        self.order(Order { start, answer })?;
        answered.await.unwrap_or_else(|_| Err(io::Error::other("a thread that starts processes has ended")))
    }

    fn order(&self, order: Order) -> io::Result<()> {
        let mut queue = self.shared.queue();
        queue.orders.push_back(order);
        if queue.orders.len() > queue.idle
            && let Err(error) = self.shared.add_thread(&mut queue)
        {
            queue.orders.pop_back();
            return Err(error);
        }
        drop(queue);
        self.shared.wake.notify_one();
        Ok(())
    }
}

impl Drop for Starters {
    fn drop(&mut self) {
        self.shared.queue().is_over = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, where there are not enough already. Fails only when there is none then.
    fn add_thread(self: &Arc<Self>, queue: &mut Queue) -> io::Result<()> {
        if queue.threads >= self.limit {
            return Ok(());
        }
        let (shared, thread) = (self.clone(), std::thread::Builder::new().name("hodei-starter".into()));
        match thread.spawn(move || shared.work()) {
            Ok(_) => queue.threads += 1,
            Err(error) if queue.threads == 0 => return Err(error),
            Err(error) => tracing::debug!(%error, "no more threads start processes"),
        }
        Ok(())
    }

    /// The life of a thread.
    fn work(self: Arc<Self>) {
        self.state.apply_to_this_thread();
        while let Some(order) = self.next() {
            if !self.carry_out(order) {
                break;
            }
        }
        let mut queue = self.queue();
        queue.threads -= 1;
        if queue.threads == 0 && !queue.orders.is_empty() && self.add_thread(&mut queue).is_err() {
            // Their callers are told by that.
            queue.orders.clear();
        }
    }

    fn next(&self) -> Option<Order> {
        let mut queue = self.queue();
        loop {
            if let Some(order) = queue.orders.pop_front() {
                return Some(order);
            }
            if queue.is_over {
                return None;
            }
            queue.idle += 1;
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }

    /// Returns whether the thread is where it was; else it must end.
    fn carry_out(&self, order: Order) -> bool {
        let (mut start, mut tries) = (order.start, 0);
        let (started, is_back) = loop {
            match start.carry_out(&self.state) {
                Tried::Done { started, is_back } => break (started, is_back),
                Tried::Busy(_) if tries == BUSY_TRIES => {
                    break (Err(io::ErrorKind::ExecutableFileBusy.into()), true);
                }
                Tried::Busy(again) => start = again,
            }
            tries += 1;
            std::thread::sleep(Duration::from_millis(1));
        };
        // A receiver that is gone drops it, and so ends the process.
        let _ = order.answer.send(started);
        is_back
    }
}
