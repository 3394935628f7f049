//! Authorization of actions, and the record of refused accesses for later inspection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hodei_core::access::{Action, Caller, Denied, RefusalReason, RefusedParty};
use hodei_core::decision::AggregateId;
use hodei_core::event::{Actor, DomainEvent};
use hodei_core::id::{AttemptId, WorkerId};
use hodei_core::port::ClockExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::hints::hint;
use crate::app::ports::Ports;

/// Checks the actions of callers, and queues refusals for storage. Never blocks its callers: refusals over the limits
/// are counted together. Clones share the queue.
#[derive(Debug, Clone)]
pub(crate) struct Authorizer {
    notes: mpsc::Sender<Note>,
    /// Number of refusals that found the queue full.
    crowded_out: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Note {
    Refused(RefusedParty, RefusalReason),
    /// A worker named an attempt that it does not hold. The history of the job tells whether it ever did.
    ForeignAttempt(WorkerId, AttemptId),
}

/// Notes that may queue.
const MAX_QUEUED_NOTES: usize = 1024;
/// Interval between two writes, so that guessing tokens does not fill the database.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of one write, and of one read of a history.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// Distinct refusals of one write; further ones are counted together. Also the histories read per write.
const MAX_DISTINCT_REFUSALS: usize = 32;

/// The task that writes refusals to the store.
struct RefusalWriter {
    ports: Arc<Ports>,
}

impl Authorizer {
    /// Starts the task that writes refusals.
    pub(crate) fn start(ports: &Arc<Ports>) -> Self {
        let (notes, waiting) = mpsc::channel(MAX_QUEUED_NOTES);
        let crowded_out = Arc::new(AtomicU64::new(0));
        let (writer, stop) = (RefusalWriter { ports: ports.clone() }, ports.tasks.stop().clone());
        ports.tasks.spawn_to_end("refusals", writer.run(waiting, crowded_out.clone(), stop));
        Self { notes, crowded_out }
    }

    /// Checks that a caller may perform an action; records a refusal when it may not.
    pub(crate) fn allow(&self, caller: &Caller, action: Action) -> Result<(), Denied> {
        caller.may(action).inspect_err(|denied| {
            let (who, tenant) = (caller.who, caller.tenant.clone());
            self.refused(RefusedParty::Client { who, tenant }, RefusalReason::Role(denied.action));
        })
    }

    /// Records a refusal.
    pub(crate) fn refused(&self, party: RefusedParty, reason: RefusalReason) {
        self.note(Note::Refused(party, reason));
    }

    /// Records that a worker named an attempt that it does not hold, unless it held it before.
    pub(crate) fn refuse_foreign_attempt(&self, worker: WorkerId, attempt: AttemptId) {
        self.note(Note::ForeignAttempt(worker, attempt));
    }

    fn note(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.crowded_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A refusal with its number of occurrences.
type Counted = (RefusedParty, RefusalReason, u64);

impl RefusalWriter {
    /// Writes until the platform stops; refusals queued by then are still written.
    async fn run(
        self,
        mut waiting: mpsc::Receiver<Note>,
        crowded_out: Arc<AtomicU64>,
        stop: CancellationToken,
    ) {
        let (mut notes, mut counted, mut is_over) = (Vec::new(), Vec::new(), false);
        let mut lookups = VecDeque::new();
        while !is_over {
            is_over = stop.is_cancelled();
            if counted.is_empty() && lookups.is_empty() && !is_over {
                is_over = tokio::select! {
                    biased;
                    () = stop.cancelled() => true,
                    count = waiting.recv_many(&mut notes, MAX_QUEUED_NOTES) => count == 0,
                };
            }
            while let Ok(note) = waiting.try_recv() {
                notes.push(note);
            }
            count_others(&mut counted, crowded_out.swap(0, Ordering::Relaxed));
            for note in notes.drain(..) {
                match note {
                    Note::Refused(party, reason) => count(&mut counted, party, reason),
                    Note::ForeignAttempt(worker, attempt) if lookups.len() < MAX_QUEUED_NOTES => {
                        lookups.push_back((worker, attempt))
                    }
                    Note::ForeignAttempt(..) => count_others(&mut counted, 1),
                }
            }
            // A bounded number per round, so that lookups do not delay the other refusals.
            for _ in 0..MAX_DISTINCT_REFUSALS {
                let Some((worker, attempt)) = lookups.pop_front() else { break };
                match self.ports.clock.timeout(STORE_TIMEOUT, self.never_held(worker, attempt)).await {
                    Ok(true) => {
                        let party = RefusedParty::Agent { worker: Some(worker), attempt: Some(attempt) };
                        count(&mut counted, party, RefusalReason::ForeignAttempt);
                    }
                    Ok(false) => {}
                    Err(_) => break,
                }
            }
            // Refusals that cannot be stored now are kept; the limit of one write bounds them. A write that timed out
            // may have been stored, and is then counted twice.
            if !counted.is_empty()
                && self.ports.clock.timeout(STORE_TIMEOUT, self.write(&counted)).await.unwrap_or(false)
            {
                counted.clear();
            }
            if !is_over {
                let pause = self.ports.clock.sleep(WRITE_INTERVAL);
                tokio::select! { biased; () = stop.cancelled() => {}, () = pause => {} }
            }
        }
    }

    /// Returns whether an attempt never was the worker's, by the history of its job. False when the history is
    /// forgotten or cannot be read.
    async fn never_held(&self, worker: WorkerId, attempt: AttemptId) -> bool {
        let Ok(history) = self.ports.store.history(AggregateId::Job(attempt.job)).await else { return false };
        let was = |event: &DomainEvent| {
            matches!(event, DomainEvent::JobAssigned { worker: of, attempt: number, .. }
                if *of == worker && *number == attempt.number)
        };
        !history.is_empty() && !history.iter().any(|envelope| was(&envelope.event))
    }

    async fn write(&self, counted: &[Counted]) -> bool {
        let platform = AggregateId::Platform(self.ports.store.id());
        let events: Vec<_> = counted
            .iter()
            .map(|(party, reason, times)| {
                let (party, reason, times) = (party.clone(), *reason, *times);
                let refused = DomainEvent::AccessRefused { party, reason, times };
                hint(&*self.ports.ids, &*self.ports.clock, platform, Actor::Platform, refused)
            })
            .collect();
        let stored = self.ports.store.record(&events).await;
        stored.inspect_err(|error| tracing::warn!(%error, "cannot store refusals now: trying again")).is_ok()
    }
}

fn count(counted: &mut Vec<Counted>, party: RefusedParty, reason: RefusalReason) {
    if let Some((_, _, times)) = counted.iter_mut().find(|(p, r, _)| (p, *r) == (&party, reason)) {
        *times += 1;
    } else if counted.len() < MAX_DISTINCT_REFUSALS {
        counted.push((party, reason, 1));
    } else {
        count_others(counted, 1);
    }
}

fn count_others(counted: &mut Vec<Counted>, more: u64) {
    let others = (&RefusedParty::Others, RefusalReason::Several);
    match counted.iter_mut().find(|(party, reason, _)| (party, *reason) == others) {
        Some((_, _, times)) => *times += more,
        None if more > 0 => counted.push((RefusedParty::Others, RefusalReason::Several, more)),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use hodei_core::access::Who;
    use hodei_core::job::TenantId;

    use super::*;

    #[test]
    fn endless_refusals_become_a_bounded_number_of_records() {
        let mut counted = Vec::new();
        for number in 0..1000 {
            let tenant = TenantId::new(&number.to_string());
            let party = RefusedParty::Client { who: Who::TokenFile, tenant };
            count(&mut counted, party, RefusalReason::UnknownToken);
        }
        let party = RefusedParty::Client { who: Who::TokenFile, tenant: TenantId::new("3") };
        count(&mut counted, party, RefusalReason::UnknownToken);
        assert_eq!(counted.len(), MAX_DISTINCT_REFUSALS + 1);
        assert_eq!(counted.iter().map(|(_, _, times)| times).sum::<u64>(), 1001);
        assert_eq!(counted[3].2, 2);
    }
}
