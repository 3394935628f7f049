//! Starts processes. A process inherits its file mode creation mask, niceness and control group from the thread that
//! starts it, so that thread must have those of the job.
//!
//! If the threads of this process have the mask and niceness of its jobs, the caller's thread starts them: handing a
//! start to another thread costs 30 µs of processor time. Otherwise dedicated threads start them, and also programs
//! whose file is busy.

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

/// Maximum number of threads per processor: one starts a process while another waits for a disk.
const MAX_THREADS_PER_CORE: usize = 2;
/// Maximum number of retries of a busy program, one millisecond apart.
const MAX_BUSY_RETRIES: usize = 20;

/// A running process and its group. When it is dropped, the process is killed, reaped and forgotten, and its group is
/// emptied.
#[derive(Debug)]
pub(in crate::executor) struct Started {
    pub(in crate::executor) main: MainProcess,
    pub(in crate::executor) known: Known,
    pub(in crate::executor) group: Option<KeptGroup>,
}

/// Starts processes, with threads if necessary: as many as starts in progress, up to a limit. Idle threads are kept
/// until this is dropped.
#[derive(Debug)]
pub(in crate::executor) struct Starters {
    needs_a_thread: bool,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: StartState,
    /// Maximum number of threads.
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

/// A process to start.
#[derive(Debug)]
struct Start {
    attempt: AttemptId,
    program: Program,
    group: Option<KeptGroup>,
    children: Children,
}

/// The result of a try to start.
enum Tried {
    /// Started or failed; `is_back` if the thread is in its original group again.
    Done { started: io::Result<Started>, is_back: bool },
    /// The program file is busy: it was just written, and a process that is being started still has this process's open
    /// files.
    Busy(Start),
}

impl Start {
    /// Tries once, on this thread.
    fn carry_out(self, state: &StartState) -> Tried {
        let Self { attempt, program, group, children } = self;
        // If the group cannot be entered, the job runs without it.
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
        let (limit, queue, wake) = (cores * MAX_THREADS_PER_CORE, Mutex::default(), Condvar::new());
        let needs_a_thread = state.needs_a_thread();
        Self { needs_a_thread, shared: Arc::new(Shared { state, limit, queue, wake }) }
    }

    /// Starts a program for an attempt, in a group if there is one. May block while the system loads the program. A
    /// dropped call leaves no process running.
    ///
    /// # Errors
    /// Those of [`Program::start`], or if no thread can be created.
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

    /// Adds a thread, up to the limit. Fails only if there is no thread at all.
    fn add_thread(self: &Arc<Self>, queue: &mut Queue) -> io::Result<()> {
        if queue.threads >= self.limit {
            return Ok(());
        }
        let (shared, thread) = (self.clone(), std::thread::Builder::new().name("hodei-starter".into()));
        match thread.spawn(move || shared.work()) {
            Ok(_) => queue.threads += 1,
            Err(error) if queue.threads == 0 => return Err(error),
            Err(error) => tracing::debug!(%error, "cannot add a thread that starts processes"),
        }
        Ok(())
    }

    /// Runs a thread.
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
            // Dropping the orders reports the failure to their callers.
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

    /// Carries out an order. Returns whether the thread is in its original group; otherwise it must end.
    fn carry_out(&self, order: Order) -> bool {
        let (mut start, mut tries) = (order.start, 0);
        let (started, is_back) = loop {
            match start.carry_out(&self.state) {
                Tried::Done { started, is_back } => break (started, is_back),
                Tried::Busy(_) if tries == MAX_BUSY_RETRIES => {
                    break (Err(io::ErrorKind::ExecutableFileBusy.into()), true);
                }
                Tried::Busy(again) => start = again,
            }
            tries += 1;
            std::thread::sleep(Duration::from_millis(1));
        };
        // If the receiver is gone, the process is dropped and thereby killed.
        let _ = order.answer.send(started);
        is_back
    }
}
