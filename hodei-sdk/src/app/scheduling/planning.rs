//! Asks the scheduler for plans: the built-in one here, one of a user's own on a thread of its own.

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
    /// The built-in one: it keeps its duties, so it is called where the coordinator is.
    BuiltIn(Arc<SmartScheduler>),
    /// A user's own, or the built-in one with strategies of a user's own: it may panic, or not return.
    Custom(Arc<dyn Scheduler>),
}

/// Makes plans for one coordinator.
#[derive(Debug)]
pub(crate) struct Planning {
    source: PlanSource,
    thread: Option<PlanningThread>,
}

/// What came of a round.
pub(crate) enum Planned {
    /// A plan.
    Plan(Vec<PlanDecision>),
    /// None, for this reason.
    Nothing(String),
    /// None, since the scheduler does not return: it has kept the context, which is to be loaded again.
    Lost(String),
}

/// A scheduler has this long for a plan.
const PLAN_TIMEOUT: Duration = Duration::from_secs(10);

type Answer = (SchedulingContext, Result<Vec<PlanDecision>, String>);

/// One that is asked to plan: the context comes back with the plan.
struct Question {
    context: SchedulingContext,
    now: Timestamp,
    reply: oneshot::Sender<Answer>,
}

/// The thread of a scheduler. It ends when this is dropped, once the scheduler returns; nothing waits for that.
#[derive(Debug)]
struct PlanningThread {
    questions: SyncSender<Question>,
    /// A plan that did not come in time.
    late: Option<oneshot::Receiver<Answer>>,
}

impl Planning {
    pub(crate) fn new(source: PlanSource) -> Self {
        Self { source, thread: None }
    }

    /// One plan. When dropped, the context may be lost.
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
                Err(error) => return Planned::Nothing(format!("it has no thread: {error}")),
            },
        };
        let planned = thread.ask(context, now, clock).await;
        if let Planned::Nothing(_) = &planned
            && thread.is_over()
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

    /// Whether it ended, which only a panic that could not be caught brings about.
    fn is_over(&self) -> bool {
        self.late.is_none()
    }

    async fn ask(&mut self, context: &mut SchedulingContext, now: Timestamp, clock: &dyn Clock) -> Planned {
        if let Some(late) = &mut self.late {
            match late.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    return Planned::Nothing("it has not returned from an earlier round".into());
                }
                // Its plan is of a time that is over.
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

/// Plans until nobody asks any more.
fn answer(scheduler: &dyn Scheduler, asked: &Receiver<Question>) {
    while let Ok(Question { context, now, reply }) = asked.recv() {
        // A context is only read: a panic leaves it as it was.
        let plan = catch_unwind(AssertUnwindSafe(|| scheduler.plan(&context, now)));
        let plan = plan.map_err(message_of);
        // The coordinator may have stepped down.
        let _ = reply.send((context, plan));
    }
}
