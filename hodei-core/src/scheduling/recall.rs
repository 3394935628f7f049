//! Chooses the jobs to recall: those that wait in a worker and would start sooner elsewhere. The coordinator asks the
//! workers to give them back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::context::{ActiveAttempt, SchedulingContext, WorkerInfo};
use super::filter::{suits_provider, suits_worker};
use super::provider_info::ProviderInfo;
use super::queue::{PlacementClass, QueueKey};
use crate::id::{ProviderId, WorkerId};
use crate::job::Priority;

/// Time without a slot taken or freed after which the jobs that wait in a worker count as stuck: ten times the
/// `PREFETCH_WINDOW`, so that a slow disk or a busy machine causes no recall.
const STUCK_AFTER: Duration = Duration::from_millis(500);

/// Attempts recalled in one round; bounds the size of a message.
const MAX_RECALLS: usize = 1_000;

impl SchedulingContext {
    /// Returns the attempts to recall, in the order of the queue: those that are stuck in a worker behind others, where
    /// another worker has a free slot or may be ordered, a queued job that comes after the attempt could be placed
    /// elsewhere before it, or the attempt holds a place that a queued job of higher priority waits for.
    pub fn recalls(&self) -> Vec<ActiveAttempt> {
        let now = self.now().monotonic;
        let is_still = |info: &&WorkerInfo| info.turned + STUCK_AFTER <= now;
        let mut stuck: Vec<(ActiveAttempt, &PlacementClass)> = self
            .workers()
            .filter(is_still)
            .flat_map(|info| self.waiting_in(info))
            .filter(|attempt| attempt.since + STUCK_AFTER <= now)
            .filter_map(|attempt| Some((attempt, self.active_class(attempt.id.job)?)))
            .collect();
        if stuck.is_empty() {
            return Vec::new();
        }
        stuck.sort_by_key(|(attempt, _)| attempt.key);
        let mut elsewhere = Elsewhere::of(self);
        stuck.retain(|(attempt, class)| elsewhere.has_place_for(attempt, class));
        stuck.into_iter().take(MAX_RECALLS).map(|(attempt, _)| attempt).collect()
    }

    /// Returns the time until an attempt may be stuck that could have a place elsewhere; `None` while there is none.
    pub fn next_recall(&self) -> Option<Duration> {
        let now = self.now().monotonic;
        let is_full = |info: &ProviderInfo| info.workers >= info.provider.profile().max_workers;
        let is_alone = self.workers().nth(1).is_none() && self.providers().all(is_full);
        if is_alone && self.queue_len() == 0 {
            return None;
        }
        let later = |info: &WorkerInfo| {
            let still = info.turned + STUCK_AFTER;
            if still > now {
                return info.is_overfull().then_some(still);
            }
            let waiting = self.waiting_in(info).into_iter().map(|attempt| attempt.since + STUCK_AFTER);
            waiting.filter(|at| *at > now).min()
        };
        self.workers().filter_map(later).min().map(|at| at - now)
    }

    /// Returns the lowest priority among the attempts of an overfull worker that are not known to run; `None` when it
    /// is not overfull.
    pub(super) fn lowest_inside(&self, info: &WorkerInfo) -> Option<Priority> {
        if !info.is_overfull() {
            return None;
        }
        let attempts = info.active.iter().filter_map(|id| self.active(id.job));
        attempts.filter(|attempt| !attempt.started).map(|attempt| attempt.key.priority.0).min()
    }

    /// Returns the attempts that have a slot in a connected worker and are not known to run.
    pub fn unstarted(&self) -> Vec<ActiveAttempt> {
        let line = |info: &WorkerInfo| {
            let (mut line, free) = self.line_of(info);
            line.truncate(free);
            line
        };
        self.workers().filter(|info| info.connected).flat_map(line).collect()
    }

    /// Returns the attempts of a worker that have no slot yet.
    fn waiting_in(&self, info: &WorkerInfo) -> Vec<ActiveAttempt> {
        if !info.is_overfull() {
            return Vec::new();
        }
        let (line, free) = self.line_of(info);
        line.into_iter().skip(free).filter(|attempt| !attempt.cancelled).collect()
    }

    /// Returns the attempts of a worker that are not known to run, in the order in which it starts them, and how many
    /// of them have a slot.
    fn line_of(&self, info: &WorkerInfo) -> (Vec<ActiveAttempt>, usize) {
        let attempts = info.active.iter().filter_map(|id| self.active(id.job)).copied();
        let mut line: Vec<ActiveAttempt> = attempts.filter(|attempt| !attempt.started).collect();
        line.sort_unstable_by_key(|attempt| attempt.dispatch);
        let running = info.active.len() - line.len();
        let free = (info.worker.capacity().slots as usize).saturating_sub(running).min(line.len());
        (line, free)
    }
}

/// The places that are free outside of the worker in which an attempt waits.
struct Elsewhere<'a> {
    context: &'a SchedulingContext,
    free: BTreeMap<WorkerId, u32>,
    orders: BTreeMap<ProviderId, u32>,
    /// The head of each class that is not at its concurrency limit.
    heads: Vec<(&'a PlacementClass, QueueKey)>,
}

impl<'a> Elsewhere<'a> {
    fn of(context: &'a SchedulingContext) -> Self {
        let open = context.workers().filter(|info| info.takes_jobs() && !context.is_held(info));
        let free = open.map(|info| {
            (info.worker.id(), info.free_slots().min(info.worker.jobs_left().unwrap_or(u32::MAX)))
        });
        let is_limited = |class: &PlacementClass| {
            class
                .concurrency
                .as_ref()
                .is_some_and(|limit| context.concurrency_in_use(&limit.key) >= limit.limit)
        };
        let heads = context.queued().filter(|(class, _)| !is_limited(class));
        Self {
            context,
            free: free.filter(|(_, slots)| *slots > 0).collect(),
            orders: BTreeMap::new(),
            heads: heads.filter_map(|(class, keys)| Some((class, *keys.first()?))).collect(),
        }
    }

    /// Whether an attempt should be recalled; takes the place that it would get.
    fn has_place_for(&mut self, attempt: &ActiveAttempt, class: &PlacementClass) -> bool {
        self.takes_slot(attempt, class) || self.takes_order(class) || self.is_in_the_way(attempt, class)
    }

    fn takes_slot(&mut self, attempt: &ActiveAttempt, class: &PlacementClass) -> bool {
        let context = self.context;
        let mut suitable = self.free.iter_mut().filter(|(id, slots)| {
            let info = context.worker(**id).filter(|_| **slots > 0 && **id != attempt.worker);
            info.is_some_and(|info| suits(context, class, info))
        });
        suitable.next().map(|(_, slots)| *slots -= 1).is_some()
    }

    fn takes_order(&mut self, class: &PlacementClass) -> bool {
        let now = self.context.now();
        for info in self.context.providers() {
            let ordered = self.orders.entry(info.provider.id()).or_default();
            if suits_provider(class, info.provider.profile()) && info.may_order(*ordered, now) {
                *ordered += 1;
                return true;
            }
        }
        false
    }

    /// Whether a queued job of higher priority could take its place, or one that comes after it in the queue could be
    /// placed on another worker that suits the attempt.
    fn is_in_the_way(&self, attempt: &ActiveAttempt, class: &PlacementClass) -> bool {
        let context = self.context;
        let Some(own) = context.worker(attempt.worker) else { return false };
        self.heads.iter().any(|(queued, head)| {
            if head.priority < attempt.key.priority {
                return suits(context, queued, own);
            }
            *head > attempt.key
                && context.workers().any(|info| {
                    let is_other = info.worker.id() != attempt.worker && info.takes_jobs();
                    is_other && suits(context, class, info) && suits(context, queued, info)
                })
        })
    }
}

fn suits(context: &SchedulingContext, class: &PlacementClass, info: &WorkerInfo) -> bool {
    let provider =
        context.providers().find(|provider| provider.provider.id() == info.worker.order().provider);
    suits_worker(class, info, provider.map(|info| info.provider.profile()))
}
