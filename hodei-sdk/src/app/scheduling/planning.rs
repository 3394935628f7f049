//! Calls the scheduler for plans: the built-in one in place, a custom one on its own thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use hodei_core::port::{Clock, ClockExt};
use hodei_core::scheduling::{PlanDecision, Scheduler, SchedulingContext, SmartScheduler};
use hodei_core::time::Timestamp;
use tokio::sync::oneshot;

use crate::task::{self, message_of};

/// The scheduler of a platform.
#[derive(Debug, Clone)]
pub(crate) enum PlanSource {
    /// The built-in one. It is trusted not to panic or block, so the coordinator calls it directly.
    BuiltIn(Arc<SmartScheduler>),
    /// A user's own scheduler, or the built-in one with a user's own strategies. It may panic or not return.
    Custom(Arc<dyn Scheduler>),
}

/// Makes plans for one coordinator.
#[derive(Debug)]
pub(crate) struct Planning {
    source: PlanSource,
    thread: Option<PlanningThread>,
}

/// Outcome of a planning round.
pub(crate) enum Planned {
    /// A plan.
    Plan(Vec<PlanDecision>),
    /// No plan, for this reason.
    Nothing(String),
    /// No plan, for this reason, and the context is lost with the scheduler's thread: the caller loads it again.
    Lost(String),
}

/// Time that a custom scheduler has for a plan.
const PLAN_TIMEOUT: Duration = Duration::from_secs(10);

type Answer = (SchedulingContext, Result<Vec<PlanDecision>, String>);

/// A request for a plan. The answer returns the context with the plan.
struct Question {
    context: SchedulingContext,
    now: Timestamp,
    reply: oneshot::Sender<Answer>,
}

/// The thread of a custom scheduler. After this is dropped it ends as soon as the scheduler returns; nothing joins it.
#[derive(Debug)]
struct PlanningThread {
    questions: SyncSender<Question>,
    /// Receiver of a plan that missed its timeout.
    late: Option<oneshot::Receiver<Answer>>,
}

impl Planning {
    pub(crate) fn new(source: PlanSource) -> Self {
        Self { source, thread: None }
    }

    /// Makes one plan. Not cancel safe: when dropped, the context may be lost.
    pub(crate) async fn plan(
        &mut self,
        context: &mut SchedulingContext,
        now: Timestamp,
        clock: &dyn Clock,
    ) -> Planned {
        let scheduler = match &self.source {
            PlanSource::BuiltIn(scheduler) => return Planned::Plan(scheduler.plan(context, now)),
            PlanSource::Custom(scheduler) => scheduler,
        };
        let thread = match &mut self.thread {
            Some(thread) => thread,
            None => match PlanningThread::start(scheduler.clone()) {
                Ok(thread) => self.thread.insert(thread),
                Err(error) => return Planned::Nothing(format!("cannot start its thread: {error}")),
            },
        };
        let planned = thread.ask(context, now, clock).await;
        if let Planned::Nothing(_) = &planned
            && thread.needs_restart()
        {
            self.thread = None;
        }
        planned
    }
}

impl PlanningThread {
    fn start(scheduler: Arc<dyn Scheduler>) -> std::io::Result<Self> {
        let (questions, asked) = sync_channel(1);
        task::thread("hodei-scheduler", move || answer(&*scheduler, &asked))?;
        Ok(Self { questions, late: None })
    }

    /// Whether to replace the thread after a round without a plan: true unless a late plan is still outstanding.
    fn needs_restart(&self) -> bool {
        self.late.is_none()
    }

    async fn ask(&mut self, context: &mut SchedulingContext, now: Timestamp, clock: &dyn Clock) -> Planned {
        if let Some(late) = &mut self.late {
            match late.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    return Planned::Nothing("it has not returned from an earlier round".into());
                }
                // The late plan is outdated: drop it.
                _ => self.late = None,
            }
        }
        let (reply, mut answer) = oneshot::channel();
        let question = Question { context: std::mem::take(context), now, reply };
        if let Err(error) = self.questions.try_send(question) {
            let (std::sync::mpsc::TrySendError::Full(question)
            | std::sync::mpsc::TrySendError::Disconnected(question)) = error;
            *context = question.context;
            return Planned::Nothing("its thread has ended".into());
        }
        match clock.timeout(PLAN_TIMEOUT, &mut answer).await {
            Ok(Ok((returned, plan))) => {
                *context = returned;
                plan.map_or_else(|why| Planned::Nothing(format!("it panicked: {why}")), Planned::Plan)
            }
            Ok(Err(_)) => Planned::Lost("its thread has ended".into()),
            Err(elapsed) => {
                self.late = Some(answer);
                Planned::Lost(elapsed.to_string())
            }
        }
    }
}

/// Answers requests for plans until the sender is dropped.
fn answer(scheduler: &dyn Scheduler, asked: &Receiver<Question>) {
    while let Ok(Question { context, now, reply }) = asked.recv() {
        // The scheduler only reads the context, so a panic leaves it intact.
        let plan = catch_unwind(AssertUnwindSafe(|| scheduler.plan(&context, now)));
        let plan = plan.map_err(message_of);
        // The send fails when the coordinator has stepped down.
        let _ = reply.send((context, plan));
    }
}
