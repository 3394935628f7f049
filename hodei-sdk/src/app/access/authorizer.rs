//! Notes who was refused what, so that it can be looked into.

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

/// Takes refusals, from wherever they are spoken, to the store. Never in the way of whoever speaks them: what is too
/// much is counted together.
#[derive(Debug, Clone)]
pub(crate) struct Authorizer {
    notes: mpsc::Sender<Note>,
    /// Refusals for which there was no room.
    crowded_out: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Note {
    Refused(RefusedParty, RefusalReason),
    /// A worker spoke of an attempt that is not its own; whether it ever was is to be looked up.
    NotIts(WorkerId, AttemptId),
}

/// Notes that may wait.
const WAITING: usize = 1024;
/// Between two writes: one who guesses tokens all day long fills no database.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a write, or a look for it, may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Refusals of one write that are told apart.
const APART: usize = 32;

/// The task that writes.
struct RefusalWriter {
    ports: Arc<Ports>,
}

impl Authorizer {
    /// Starts the task that writes.
    pub(crate) fn start(ports: &Arc<Ports>) -> Self {
        let (notes, waiting) = mpsc::channel(WAITING);
        let crowded_out = Arc::new(AtomicU64::new(0));
        let (writer, stop) = (RefusalWriter { ports: ports.clone() }, ports.tasks.stop().clone());
        ports.tasks.spawn_to_end("refusals", writer.run(waiting, crowded_out.clone(), stop));
        Self { notes, crowded_out }
    }

    /// Whether a caller may do something; that it may not is noted.
    pub(crate) fn allow(&self, caller: &Caller, action: Action) -> Result<(), Denied> {
        caller.may(action).inspect_err(|denied| {
            let (who, tenant) = (caller.who, caller.tenant.clone());
            self.refused(RefusedParty::Client { who, tenant }, RefusalReason::Role(denied.action));
        })
    }

    /// Notes that somebody was refused.
    pub(crate) fn refused(&self, party: RefusedParty, reason: RefusalReason) {
        self.note(Note::Refused(party, reason));
    }

    /// Notes that a worker spoke of an attempt that is not its own now, if it never was.
    pub(crate) fn not_its(&self, worker: WorkerId, attempt: AttemptId) {
        self.note(Note::NotIts(worker, attempt));
    }

    fn note(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.crowded_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A refusal and how often it was spoken.
type Counted = (RefusedParty, RefusalReason, u64);

impl RefusalWriter {
    /// Until the platform stops: what was spoken by then is written first.
    async fn run(
        self,
        mut waiting: mpsc::Receiver<Note>,
        crowded_out: Arc<AtomicU64>,
        stop: CancellationToken,
    ) {
        let (mut notes, mut counted, mut is_over) = (Vec::new(), Vec::new(), false);
        let mut asked = VecDeque::new();
        while !is_over {
            is_over = stop.is_cancelled();
            if counted.is_empty() && asked.is_empty() && !is_over {
                is_over = tokio::select! {
                    biased;
                    () = stop.cancelled() => true,
                    count = waiting.recv_many(&mut notes, WAITING) => count == 0,
                };
            }
            while let Ok(note) = waiting.try_recv() {
                notes.push(note);
            }
            count_others(&mut counted, crowded_out.swap(0, Ordering::Relaxed));
            for note in notes.drain(..) {
                match note {
                    Note::Refused(party, reason) => count(&mut counted, party, reason),
                    Note::NotIts(worker, attempt) if asked.len() < WAITING => {
                        asked.push_back((worker, attempt))
                    }
                    Note::NotIts(..) => count_others(&mut counted, 1),
                }
            }
            // Many of them hold up no other.
            for _ in 0..APART {
                let Some((worker, attempt)) = asked.pop_front() else { break };
                match self.ports.clock.timeout(LIMIT, self.was_never_of(worker, attempt)).await {
                    Ok(true) => {
                        let party = RefusedParty::Agent { worker: Some(worker), attempt: Some(attempt) };
                        count(&mut counted, party, RefusalReason::ForeignAttempt);
                    }
                    Ok(false) => {}
                    Err(_) => break,
                }
            }
            // What cannot be stored now is kept, and grows no further than one write; what was cut off may have been
            // stored, and is counted again.
            if !counted.is_empty()
                && self.ports.clock.timeout(LIMIT, self.write(&counted)).await.unwrap_or(false)
            {
                counted.clear();
            }
            if !is_over {
                tokio::select! { biased; () = stop.cancelled() => {}, () = self.ports.clock.sleep(PAUSE) => {} }
            }
        }
    }

    /// By the job's history; what is forgotten was nobody's.
    async fn was_never_of(&self, worker: WorkerId, attempt: AttemptId) -> bool {
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
        stored.inspect_err(|error| tracing::warn!(%error, "refusals cannot be stored now")).is_ok()
    }
}

fn count(counted: &mut Vec<Counted>, party: RefusedParty, reason: RefusalReason) {
    if let Some((_, _, times)) = counted.iter_mut().find(|(p, r, _)| (p, *r) == (&party, reason)) {
        *times += 1;
    } else if counted.len() < APART {
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
    fn refusals_without_end_are_few_notes() {
        let mut counted = Vec::new();
        for number in 0..1000 {
            let tenant = TenantId::new(&number.to_string());
            let party = RefusedParty::Client { who: Who::TokenFile, tenant };
            count(&mut counted, party, RefusalReason::UnknownToken);
        }
        let party = RefusedParty::Client { who: Who::TokenFile, tenant: TenantId::new("3") };
        count(&mut counted, party, RefusalReason::UnknownToken);
        assert_eq!(counted.len(), APART + 1);
        assert_eq!(counted.iter().map(|(_, _, times)| times).sum::<u64>(), 1001);
        assert_eq!(counted[3].2, 2);
    }
}
