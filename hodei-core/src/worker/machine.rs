use std::sync::Arc;

use uuid::Uuid;

use super::state::{TerminationCause, Worker, WorkerOrder, WorkerState};
use super::{IssuedToken, SecretHash, WorkerCapacity};
use crate::decision::{Aggregate, Decision, Effect, Expect};
use crate::event::DomainEvent;
use crate::job::Labels;
use crate::time::Timestamp;

/// What can happen to a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerInput {
    /// The plan wants it. Legal only where there is none.
    Order(WorkerOrder),
    /// Its provider created it, under this name.
    Created(String),
    /// A bootstrap token was made for its agent.
    IssueToken(SecretHash),
    /// Its agent showed a bootstrap token: this agent is the worker from now on, and no other.
    Admit {
        /// Tells this agent from any other that shows the token.
        incarnation: Uuid,
        /// The hash of what it shows from now on.
        credential: SecretHash,
    },
    /// Its agent said hello for the first time.
    Join {
        /// What the agent holds.
        capacity: WorkerCapacity,
        /// What the agent knows of itself.
        labels: Labels,
        /// Tells this agent from any other that claims to be the worker.
        incarnation: Uuid,
    },
    /// The plan gives it jobs, this many more.
    Take(u32),
    /// Its last job is gone.
    Idle,
    /// It should take nothing more.
    Drain(String),
    /// Its lease ran out.
    Lose(String),
    /// It is gone.
    Terminate(TerminationCause),
}

/// The next state of a worker: the only maker of one. `None` when the state does not take the input, which
/// for a worker always means that it is late or repeated.
pub fn step(current: Option<&Worker>, input: WorkerInput, now: Timestamp) -> Option<Decision> {
    let (events, effects) = react(current, input)?;
    let (expect, version) = match current {
        Some(worker) => (Expect::Version(worker.version), worker.version + 1),
        None => (Expect::Absent, 1),
    };
    let next = events.iter().fold(current.cloned(), |worker, event| replay(worker, event, version, now))?;
    Some(Decision { expect, next: Aggregate::Worker(Arc::new(next)), at: now, events, effects })
}

fn react(current: Option<&Worker>, input: WorkerInput) -> Option<(Vec<DomainEvent>, Vec<Effect>)> {
    use WorkerState::{Busy, Draining, Ready, Registering, Terminated};
    let Some(worker) = current else {
        let WorkerInput::Order(order) = input else { return None };
        let worker = order.worker;
        let event = DomainEvent::WorkerProvisioningRequested { worker, order };
        return Some((vec![event], vec![]));
    };
    let id = worker.id;
    let (event, effects) = match (input, &worker.state) {
        (_, Terminated { .. }) => return None,
        (WorkerInput::Created(reference), _) if worker.reference.is_none() => {
            (DomainEvent::WorkerProvisioned { reference }, vec![])
        }
        (WorkerInput::IssueToken(token), Registering) => (DomainEvent::WorkerTokenIssued { token }, vec![]),
        (WorkerInput::Admit { incarnation, credential }, Registering) if worker.incarnation.is_none() => {
            (DomainEvent::WorkerAdmitted { incarnation, credential }, vec![])
        }
        (WorkerInput::Join { capacity, labels, incarnation }, Registering)
            if worker.incarnation.is_none_or(|first| first == incarnation) =>
        {
            (DomainEvent::WorkerRegistered { capacity, labels, incarnation }, vec![])
        }
        // An unlimited worker that is busy already changes nothing when it takes more.
        (WorkerInput::Take(jobs), Ready { .. }) => (DomainEvent::WorkerBusy { taken: jobs }, vec![]),
        (WorkerInput::Take(jobs), Busy) if worker.order.lifetime.max_jobs.is_some() => {
            (DomainEvent::WorkerBusy { taken: jobs }, vec![])
        }
        (WorkerInput::Idle, Busy) => (DomainEvent::WorkerIdle, vec![]),
        (WorkerInput::Drain(reason), Registering | Ready { .. } | Busy) => {
            (DomainEvent::WorkerDraining { reason }, vec![Effect::DrainWorker(id)])
        }
        (WorkerInput::Lose(why), Registering | Ready { .. } | Busy | Draining { .. }) => {
            (DomainEvent::WorkerLost { why }, vec![Effect::DestroyWorker(id)])
        }
        (WorkerInput::Terminate(cause), _) => {
            (DomainEvent::WorkerTerminated { cause }, vec![Effect::DestroyWorker(id)])
        }
        _ => return None,
    };
    Some((vec![event], effects))
}

/// Folds one event into a worker; what [`step`] itself uses.
pub fn replay(worker: Option<Worker>, event: &DomainEvent, version: u64, at: Timestamp) -> Option<Worker> {
    if let DomainEvent::WorkerProvisioningRequested { worker, order } = event {
        return Some(Worker {
            id: *worker,
            version,
            state: WorkerState::Registering,
            capacity: order.capacity,
            labels: order.labels.clone(),
            order: order.clone(),
            reference: None,
            incarnation: None,
            tokens: Vec::new(),
            credential: None,
            taken: 0,
            ordered_at: at,
        });
    }
    let mut worker = worker?;
    worker.version = version;
    match event {
        DomainEvent::WorkerProvisioned { reference } => worker.reference = Some(reference.clone()),
        DomainEvent::WorkerTokenIssued { token } => {
            if worker.tokens.len() == Worker::MAX_TOKENS {
                worker.tokens.remove(0);
            }
            worker.tokens.push(IssuedToken { hash: *token, at });
        }
        DomainEvent::WorkerAdmitted { incarnation, credential } => {
            worker.incarnation = Some(*incarnation);
            worker.credential = Some(*credential);
        }
        DomainEvent::WorkerRegistered { capacity, labels, incarnation } => {
            worker.incarnation = Some(*incarnation);
            worker.capacity = *capacity;
            worker.labels.extend(labels.clone());
            worker.state = WorkerState::Ready { since: at };
        }
        DomainEvent::WorkerBusy { taken } => {
            worker.taken = worker.taken.saturating_add(*taken);
            worker.state = WorkerState::Busy;
        }
        DomainEvent::WorkerIdle => worker.state = WorkerState::Ready { since: at },
        DomainEvent::WorkerDraining { .. } => worker.state = WorkerState::Draining { since: at },
        DomainEvent::WorkerLost { why } => {
            worker.state = WorkerState::Terminated { at, cause: TerminationCause::Lost(why.clone()) };
        }
        DomainEvent::WorkerTerminated { cause } => {
            worker.state = WorkerState::Terminated { at, cause: cause.clone() };
        }
        _ => {}
    }
    Some(worker)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::id::{OrderId, ProviderId, StoreId, WorkerId};
    use crate::worker::{Lifetime, NotAdmitted, WorkerStatus};

    fn order(lifetime: Lifetime) -> WorkerOrder {
        let uuid = uuid::Uuid::from_u128(7);
        WorkerOrder {
            id: OrderId::from_uuid(uuid),
            worker: WorkerId::from_uuid(uuid),
            provider: ProviderId::from_uuid(uuid),
            owner: StoreId::from_uuid(uuid),
            capacity: WorkerCapacity::slots(2),
            labels: Labels::new(),
            lifetime,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn run(lifetime: Lifetime, inputs: impl IntoIterator<Item = WorkerInput>) -> Worker {
        let mut worker: Option<Worker> = None;
        let inputs = std::iter::once(WorkerInput::Order(order(lifetime))).chain(inputs);
        for (second, input) in inputs.enumerate() {
            let decision = step(worker.as_ref(), input.clone(), at(second as i64));
            let Some(Aggregate::Worker(next)) = decision.map(|decision| decision.next) else {
                panic!("{input:?}")
            };
            worker = Some(Worker::clone(&next));
        }
        worker.unwrap()
    }

    fn join() -> WorkerInput {
        WorkerInput::Join {
            capacity: WorkerCapacity::slots(4),
            labels: Labels::new(),
            incarnation: Uuid::nil(),
        }
    }

    #[test]
    fn a_worker_lives_from_order_to_end() {
        let worker = run(
            Lifetime::default(),
            [WorkerInput::Created("w".into()), join(), WorkerInput::Take(2), WorkerInput::Idle],
        );
        assert_eq!((worker.status(), worker.taken(), worker.capacity().slots), (WorkerStatus::Ready, 2, 4));
        assert_eq!(worker.retires_at(), Some(at(64)));
    }

    #[test]
    fn a_token_lets_one_agent_in_and_no_other() {
        let hash = |byte| SecretHash::from_bytes([byte; 32]);
        let nonce = Uuid::from_u128;
        let issued =
            run(Lifetime::default(), [WorkerInput::IssueToken(hash(1)), WorkerInput::IssueToken(hash(2))]);
        assert_eq!(issued.admits(hash(9), nonce(1), at(2)), Err(NotAdmitted::Unknown));
        assert_eq!(issued.admits(hash(1), nonce(1), at(302)), Err(NotAdmitted::Expired));
        assert_eq!(issued.admits(hash(2), nonce(1), at(302)), Ok(()), "it is a second younger");
        let admit = WorkerInput::Admit { incarnation: nonce(1), credential: hash(7) };
        let Aggregate::Worker(admitted) = step(Some(&issued), admit.clone(), at(3)).unwrap().next else {
            panic!()
        };
        assert_eq!(admitted.admits(hash(2), nonce(1), at(999)), Ok(()), "the same agent may ask again");
        assert_eq!(admitted.admits(hash(2), nonce(2), at(3)), Err(NotAdmitted::Used));
        assert_eq!(step(Some(&admitted), admit, at(4)), None);
        let stranger = WorkerInput::Join {
            capacity: WorkerCapacity::slots(1),
            labels: Labels::new(),
            incarnation: nonce(2),
        };
        assert_eq!(step(Some(&admitted), stranger, at(4)), None);
    }

    #[test]
    fn a_worker_of_one_job_takes_no_second() {
        let lifetime = Lifetime { max_jobs: Some(1), ..Lifetime::default() };
        let worker = run(lifetime, [join(), WorkerInput::Take(1)]);
        assert_eq!(worker.jobs_left(), Some(0));
        let worker = run(lifetime, [join(), WorkerInput::Take(1), WorkerInput::Idle]);
        assert_eq!(worker.retires_at(), Some(at(3)), "it retires as soon as it is idle");
    }

    #[test]
    fn a_worker_that_leaves_at_once_waits_for_the_job_that_it_was_ordered_for() {
        let lifetime = Lifetime { idle: Some(Duration::ZERO), ..Lifetime::default() };
        assert_eq!(run(lifetime, [join()]).retires_at(), Some(at(1) + Worker::FIRST_JOB));
        let worked = run(lifetime, [join(), WorkerInput::Take(1), WorkerInput::Idle]);
        assert_eq!(worked.retires_at(), Some(at(3)));
    }

    #[test]
    fn a_terminated_worker_takes_nothing() {
        let worker = run(Lifetime::default(), [join(), WorkerInput::Lose("no heartbeat".into())]);
        assert!(worker.is_terminated());
        for input in [join(), WorkerInput::Take(1), WorkerInput::Drain(String::new()), WorkerInput::Idle] {
            assert_eq!(step(Some(&worker), input, at(9)), None);
        }
    }
}
