//! The scheduler: its port, and the built-in one, which plans by placement class.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, btree_set};
use std::fmt::Debug;
use std::iter::Peekable;
use std::sync::Arc;

use super::context::{SchedulingContext, WorkerInfo};
use super::filter::{suits_provider, suits_worker};
use super::queue::{PlacementClass, QueueKey, QueuedJob};
use super::score::{SchedulingStrategy, Score};
use super::strategy::LeastLoaded;

use crate::id::{JobId, ProviderId, WorkerId};
use crate::job::{JobResources, Priority};
use crate::queue::WaitCause;
use crate::time::{Moment, Timestamp};
use crate::worker::WorkerState;

/// The scheduler, which a platform may replace as a whole.
///
/// Duties: a plan keeps every rule of [`PlanFault`](super::PlanFault): slots and resources of workers, constraints,
/// concurrency limits and limits of providers. It returns within seconds, without I/O and without a wait, since no
/// other plan is made meanwhile.
///
/// The coordinator contains a scheduler that fails in its duties. It [checks](super::check) each decision before the
/// commit and refuses one that breaks a rule, with the reason in the log and in `hodei scheduler status`; it carries
/// out the others. A scheduler that panics, or does not return within 10 s, plans nothing in that round: running jobs
/// continue, queued jobs wait, and the coordinator asks again. It never again calls a scheduler that has not returned.
pub trait Scheduler: Debug + Send + Sync + 'static {
    /// Plans the next decisions. Pure: the same context and time give the same plan.
    fn plan(&self, context: &SchedulingContext, now: Timestamp) -> Vec<PlanDecision>;
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum PlanDecision {
    /// Assign the job to the worker.
    Assign {
        /// The job.
        job: JobId,
        /// The worker.
        worker: WorkerId,
        /// The score of this worker.
        score: Score,
    },
    /// Order one worker.
    Provision {
        /// The provider that creates it.
        provider: ProviderId,
    },
    /// Leave the jobs of a class in the queue.
    Enqueue {
        /// The first job of the class.
        head: JobId,
        /// Number of jobs that wait.
        waiting: usize,
        /// Why they wait.
        cause: WaitCause,
    },
    /// End the job: no provider can run it.
    Reject {
        /// The job.
        job: JobId,
        /// The reason.
        why: String,
    },
}

/// Plans by placement class, in the order of priority, then age. A head that no worker can run blocks only its own
/// class.
#[derive(Debug, Clone)]
pub struct SmartScheduler {
    strategies: Vec<(Arc<dyn SchedulingStrategy>, f64)>,
    max_assignments: usize,
    max_orders: usize,
}

impl Default for SmartScheduler {
    /// [`LeastLoaded`] alone.
    fn default() -> Self {
        Self::new([(Arc::new(LeastLoaded) as Arc<dyn SchedulingStrategy>, 1.0)])
    }
}

impl SmartScheduler {
    /// Makes a scheduler of strategies with their weights.
    pub fn new(strategies: impl IntoIterator<Item = (Arc<dyn SchedulingStrategy>, f64)>) -> Self {
        Self { strategies: strategies.into_iter().collect(), max_assignments: 1000, max_orders: 16 }
    }

    fn score(&self, job: &QueuedJob<'_>, worker: &WorkerInfo, active: u32) -> Score {
        let part = |(strategy, weight): &(Arc<dyn SchedulingStrategy>, f64)| {
            let part = strategy.score(job, worker, active) * weight;
            // `check` would refuse the assignment for a score that is not finite, in each round.
            (strategy.name().into(), if part.is_finite() { part } else { 0.0 })
        };
        Score { parts: self.strategies.iter().map(part).collect() }
    }
}

impl Scheduler for SmartScheduler {
    fn plan(&self, context: &SchedulingContext, now: Timestamp) -> Vec<PlanDecision> {
        let mut round = Round::new(self, context, now);
        round.assign();
        round.provision();
        round.decisions
    }
}

/// The free room of a worker in this round.
struct Room {
    /// It takes no further job: it has a suspect on trial, or is kept free for one.
    held: bool,
    /// All its attempts are trusted: a suspect may begin there.
    trusted: bool,
    /// Its last job was a suspect: other jobs come first now.
    turn_of_others: bool,
    /// Number of jobs that may wait in it beyond its slots.
    prefetch: u32,
    /// The lowest priority of the jobs that wait in it: a job put behind them starts after them.
    lowest: Option<Priority>,
    active: u32,
    in_use: JobResources,
    jobs_left: Option<u32>,
}

/// A class and its jobs that are not placed yet.
struct Line<'a> {
    class: &'a PlacementClass,
    rest: Peekable<btree_set::Iter<'a, QueueKey>>,
    waiting: usize,
    /// Whether its jobs may wait in a worker beyond its slots; computed once a round.
    may_wait_inside: Option<bool>,
    /// Set when its head found no place: true when the cause is its concurrency limit.
    stuck: Option<bool>,
}

/// A class whose head found no place.
struct Blocked<'a> {
    class: &'a PlacementClass,
    rest: Peekable<btree_set::Iter<'a, QueueKey>>,
    waiting: usize,
    limited: bool,
}

struct Round<'a> {
    scheduler: &'a SmartScheduler,
    context: &'a SchedulingContext,
    now: Timestamp,
    rooms: BTreeMap<WorkerId, Room>,
    keys_in_use: BTreeMap<&'a str, u32>,
    orders: BTreeMap<ProviderId, u32>,
    /// Workers that are ordered and not registered yet, and the slots that jobs can use on them.
    coming: Vec<(&'a WorkerInfo, u32)>,
    blocked: Vec<Blocked<'a>>,
    decisions: Vec<PlanDecision>,
    assigned: usize,
    /// This pass places only jobs that are not suspects, on workers whose last job was a suspect.
    turn_of_others: bool,
}

impl<'a> Round<'a> {
    fn new(scheduler: &'a SmartScheduler, context: &'a SchedulingContext, now: Timestamp) -> Self {
        let monotonic = context.now().monotonic;
        let room = |info: &WorkerInfo| Room {
            held: context.is_held(info),
            trusted: context.are_trusted(info),
            turn_of_others: context.is_turn_of_others(info),
            prefetch: info.prefetch(monotonic),
            lowest: context.lowest_inside(info),
            active: info.active.len() as u32,
            in_use: info.in_use,
            jobs_left: info.worker.jobs_left(),
        };
        let open = context.workers().filter(|info| info.takes_jobs());
        Self {
            scheduler,
            context,
            now,
            rooms: open.map(|info| (info.worker.id(), room(info))).collect(),
            keys_in_use: BTreeMap::new(),
            orders: BTreeMap::new(),
            coming: coming(context),
            blocked: Vec::new(),
            decisions: Vec::new(),
            assigned: 0,
            turn_of_others: false,
        }
    }

    fn assign(&mut self) {
        let line = |(class, keys): (&'a PlacementClass, &'a BTreeSet<QueueKey>)| Line {
            class,
            rest: keys.iter().peekable(),
            waiting: keys.len(),
            may_wait_inside: None,
            stuck: None,
        };
        let mut lines: Vec<Line<'a>> = self.context.queued().map(line).collect();
        if self.context.has_suspects() {
            self.turn_of_others = true;
            self.merge(&mut lines);
            self.turn_of_others = false;
        }
        self.merge(&mut lines);
        for Line { class, rest, waiting, stuck, .. } in lines {
            self.blocked.extend(stuck.map(|limited| Blocked { class, rest, waiting, limited }));
        }
    }

    /// Merges the classes by the order of their heads, and places one head after the other.
    fn merge(&mut self, lines: &mut [Line<'a>]) {
        let takes_part = |line: &Line<'a>| !(self.turn_of_others && line.class.suspect);
        let mut heads: BinaryHeap<Reverse<(QueueKey, usize)>> = lines
            .iter_mut()
            .enumerate()
            .filter(|(_, line)| takes_part(line))
            .filter_map(|(index, line)| line.rest.peek().map(|key| Reverse((**key, index))))
            .collect();
        let mut top = None;
        while let Some(Reverse((key, index))) = heads.pop() {
            if self.assigned >= self.scheduler.max_assignments {
                break;
            }
            let top = *top.get_or_insert(key.priority.0);
            let line = &mut lines[index];
            let limited = self.is_limited(line.class);
            if !limited && self.place(key, line, top) {
                line.rest.next();
                line.waiting -= 1;
                heads.extend(line.rest.peek().map(|key| Reverse((**key, index))));
            } else {
                if line.class.suspect && !limited {
                    let class = line.class;
                    self.hold_one(class);
                }
                // A job that finds no place in the turn of others is tried again in the main pass.
                line.stuck = (!self.turn_of_others).then_some(limited);
            }
        }
    }

    fn is_limited(&self, class: &PlacementClass) -> bool {
        class.concurrency.as_ref().is_some_and(|concurrency| {
            let planned = self.keys_in_use.get(concurrency.key.as_str()).copied().unwrap_or(0);
            self.context.concurrency_in_use(&concurrency.key) + planned >= concurrency.limit
        })
    }

    /// Assigns a job to the best worker with room; beyond its slots only a job that may wait there.
    fn place(&mut self, key: QueueKey, line: &mut Line<'a>, top: Priority) -> bool {
        let job = QueuedJob { key, class: line.class };
        let best = self.best_worker(&job, false).or_else(|| {
            let may_wait = key.priority.0 == top
                && !self.turn_of_others
                && !self.context.was_given_back(key.job)
                && *line.may_wait_inside.get_or_insert_with(|| self.may_wait_inside(job.class));
            if may_wait { self.best_worker(&job, true) } else { None }
        });
        let Some((worker, score)) = best else { return false };
        if let Some(room) = self.rooms.get_mut(&worker) {
            room.active += 1;
            room.held |= job.class.suspect;
            room.trusted = false;
            room.in_use = room.in_use.plus(&job.class.resources);
            room.jobs_left = room.jobs_left.map(|left| left.saturating_sub(1));
        }
        if let Some(concurrency) = &job.class.concurrency {
            *self.keys_in_use.entry(&concurrency.key).or_default() += 1;
        }
        self.assigned += 1;
        self.decisions.push(PlanDecision::Assign { job: job.key.job, worker, score });
        true
    }

    fn best_worker(&self, job: &QueuedJob<'a>, prefetch: bool) -> Option<(WorkerId, Score)> {
        let mut best: Option<(WorkerId, Score)> = None;
        for (id, room) in &self.rooms {
            let Some(info) = self.context.worker(*id) else { continue };
            let capacity = info.worker.capacity();
            let slots = capacity.slots.saturating_add(if prefetch { room.prefetch } else { 0 });
            let fits = room.in_use.plus(&job.class.resources).exceeds(&capacity.resources).is_none()
                || job.class.resources.is_one_slot();
            if room.held || !job.class.may_begin_beside(room.active, room.trusted) {
                continue;
            }
            if self.turn_of_others && !room.turn_of_others {
                continue;
            }
            if prefetch && room.lowest.is_some_and(|lowest| lowest < job.key.priority.0) {
                continue;
            }
            if room.active >= slots || room.jobs_left == Some(0) || !fits || !self.suits(job.class, info) {
                continue;
            }
            let score = self.scheduler.score(job, info, room.active);
            if best.as_ref().is_none_or(|(_, other)| score.total() > other.total()) {
                best = Some((*id, score));
            }
        }
        best
    }

    /// Holds the worker with the fewest jobs for a suspect, where that soon makes a place for it and no worker can be
    /// ordered for it. Without this a stream of other jobs would keep the suspect waiting for ever.
    fn hold_one(&mut self, class: &PlacementClass) {
        if self.next_provider(class).is_some() {
            return;
        }
        let open = self.rooms.iter().filter(|(id, room)| {
            let info = self.context.worker(**id);
            let has_place =
                |info: &WorkerInfo| self.suits(class, info) && self.context.has_place_soon(class, info);
            !room.held && room.jobs_left != Some(0) && info.is_some_and(has_place)
        });
        if let Some(id) = open.min_by_key(|(_, room)| room.active).map(|(id, _)| *id)
            && let Some(room) = self.rooms.get_mut(&id)
        {
            room.held = true;
        }
    }

    fn suits(&self, class: &PlacementClass, info: &WorkerInfo) -> bool {
        let provider = self.context.providers().find(|p| p.provider.id() == info.worker.order().provider);
        suits_worker(class, info, provider.map(|info| info.provider.profile()))
    }

    /// Whether jobs of a class may wait in a worker beyond its slots: not while another worker for them is coming or
    /// can be ordered.
    fn may_wait_inside(&self, class: &PlacementClass) -> bool {
        class.concurrency.is_none()
            && !class.suspect
            && class.resources.is_one_slot()
            && self.next_provider(class).is_none()
            && !self.coming.iter().any(|(info, _)| self.suits(class, info))
    }

    fn next_provider(&self, class: &PlacementClass) -> Option<ProviderId> {
        let mut open = self.context.providers().filter(|info| {
            let id = info.provider.id();
            let ordered = self.orders.get(&id).copied().unwrap_or(0);
            let now = Moment { wall: self.now, ..self.context.now() };
            suits_provider(class, info.provider.profile()) && info.may_order(ordered, now)
        });
        open.next().map(|info| info.provider.id())
    }

    /// Orders workers for the blocked jobs, reports why they wait, and rejects jobs that no configured provider can
    /// run.
    fn provision(&mut self) {
        let mut coming = std::mem::take(&mut self.coming);
        for mut blocked in std::mem::take(&mut self.blocked) {
            let Some(head) = blocked.rest.peek().map(|key| key.job) else { continue };
            let providers =
                || self.context.providers().filter(|p| suits_provider(blocked.class, p.provider.profile()));
            if providers().next().is_none() && self.context.providers().next().is_some() {
                let why = || "no configured provider creates a worker that it can run on".to_owned();
                let jobs = blocked.rest.take(self.scheduler.max_assignments);
                self.decisions.extend(jobs.map(|key| PlanDecision::Reject { job: key.job, why: why() }));
                continue;
            }
            let waiting = blocked.waiting;
            let cause =
                if blocked.limited { WaitCause::Concurrency } else { self.order_for(&blocked, &mut coming) };
            self.decisions.push(PlanDecision::Enqueue { head, waiting, cause });
        }
    }

    fn order_for(&mut self, blocked: &Blocked<'a>, coming: &mut [(&'a WorkerInfo, u32)]) -> WaitCause {
        let mut need = match &blocked.class.concurrency {
            Some(concurrency) => (concurrency.limit as usize).min(blocked.waiting),
            None => blocked.waiting,
        };
        let mut under_way = false;
        for (info, slots) in
            coming.iter_mut().filter(|(info, slots)| *slots > 0 && self.suits(blocked.class, info))
        {
            let used = need.min(if blocked.class.suspect { 1 } else { *slots as usize });
            need -= used;
            *slots = if blocked.class.suspect { 0 } else { *slots - used as u32 };
            under_way |= used > 0 || info.worker.capacity().slots > 0;
        }
        while need > 0 && self.orders.values().sum::<u32>() < self.scheduler.max_orders as u32 {
            let Some(provider) = self.next_provider(blocked.class) else { break };
            *self.orders.entry(provider).or_default() += 1;
            self.decisions.push(PlanDecision::Provision { provider });
            under_way = true;
            let profile = self.context.providers().find(|p| p.provider.id() == provider);
            let slots = profile.map_or(1, |info| {
                let profile = info.provider.profile();
                useful_slots(profile.capacity.slots, profile.lifetime.max_jobs)
            });
            need = need.saturating_sub(if blocked.class.suspect { 1 } else { slots.max(1) as usize });
        }
        let has_worker = self
            .rooms
            .keys()
            .filter_map(|id| self.context.worker(*id))
            .any(|info| self.suits(blocked.class, info));
        match (under_way, has_worker) {
            (true, _) => WaitCause::Provisioning,
            (false, true) => WaitCause::Capacity,
            (false, false) => WaitCause::Provider,
        }
    }
}

/// Workers that are ordered and not registered yet, and the slots that jobs can use on them.
fn coming(context: &SchedulingContext) -> Vec<(&WorkerInfo, u32)> {
    let is_coming = |info: &&WorkerInfo| matches!(info.worker.state(), WorkerState::Registering);
    let slots =
        |info: &WorkerInfo| useful_slots(info.worker.capacity().slots, info.worker.order().lifetime.max_jobs);
    context.workers().filter(is_coming).map(|info| (info, slots(info))).collect()
}

/// Slots of a new worker that jobs can use before its lifetime ends.
fn useful_slots(slots: u32, max_jobs: Option<u32>) -> u32 {
    max_jobs.map_or(slots, |max| max.min(slots))
}
