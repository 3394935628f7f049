//! The state machine of a worker: inputs, transitions, and the fold of events into states.

use std::sync::Arc;

use uuid::Uuid;

use super::state::{TerminationCause, Worker, WorkerOrder, WorkerState};
use super::{IssuedToken, SecretHash, WorkerCapacity};
use crate::decision::{Aggregate, Decision, Effect, Expect};
use crate::event::DomainEvent;
use crate::job::Labels;
use crate::time::Timestamp;

/// The inputs of the state machine.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerInput {
    /// The plan orders the worker. Legal only while it does not exist.
    Order(WorkerOrder),
    /// The provider created the worker, under this name.
    Created(String),
    /// A bootstrap token was made for its agent.
    IssueToken(SecretHash),
    /// An agent showed a bootstrap token. From then on only this agent is the worker.
    Admit {
        /// Nonce of the agent, which tells it from others that show the token.
        incarnation: Uuid,
        /// Hash of its session credential.
        credential: SecretHash,
    },
    /// The agent connected for the first time.
    Join {
        /// Capacity that the agent reports.
        capacity: WorkerCapacity,
        /// Labels that the agent reports.
        labels: Labels,
        /// Nonce of the agent, which tells it from others that claim to be the worker.
        incarnation: Uuid,
    },
    /// The plan assigns this many more jobs to the worker.
    Take(u32),
    /// Its last job left.
    Idle,
    /// The worker is to take no more jobs, for this reason.
    Drain(String),
    /// The worker is lost, for this reason.
    Lose(String),
    /// The worker is gone, for this cause.
    Terminate(TerminationCause),
}

/// Computes the next state of a worker. It is the only function that does. `None` when the state does not take the
/// input, which for a worker always means that the input is late or repeated.
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
        // A busy worker without a job limit does not change when it takes more jobs.
        (WorkerInput::Take(jobs), Ready { .. }) => (DomainEvent::WorkerBusy { taken: jobs }, vec![]),
        (WorkerInput::Take(jobs), Busy) if worker.order.lifetime.max_jobs.is_some() => {
            (DomainEvent::WorkerBusy { taken: jobs }, vec![])
        }
        (WorkerInput::Idle, Busy) => (DomainEvent::WorkerIdle, vec![]),
        (WorkerInput::Drain(reason), Registering | Ready { .. } | Busy) => {
            (DomainEvent::WorkerDraining { reason }, vec![Effect::DrainWorker(id)])
        }
        (WorkerInput::Lose(why), Registering | Ready { .. } | Busy | Draining { .. }) => {
            (DomainEvent::WorkerLost { why }, Vec::new())
        }
        (WorkerInput::Terminate(cause), _) => (DomainEvent::WorkerTerminated { cause }, Vec::new()),
        _ => return None,
    };
    Some((vec![event], effects))
}

/// Folds one event into a worker. [`step`] uses it too, so that history and state cannot differ.
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
    fn a_worker_is_ready_again_after_its_jobs() {
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
        let other_agent = WorkerInput::Join {
            capacity: WorkerCapacity::slots(1),
            labels: Labels::new(),
            incarnation: nonce(2),
        };
        assert_eq!(step(Some(&admitted), other_agent, at(4)), None);
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
    fn a_worker_without_idle_time_waits_for_its_first_job() {
        let lifetime = Lifetime { idle: Some(Duration::ZERO), ..Lifetime::default() };
        assert_eq!(run(lifetime, [join()]).retires_at(), Some(at(1) + Worker::FIRST_JOB));
        let worked = run(lifetime, [join(), WorkerInput::Take(1), WorkerInput::Idle]);
        assert_eq!(worked.retires_at(), Some(at(3)));
    }

    #[test]
    fn a_terminated_worker_takes_no_input() {
        let worker = run(Lifetime::default(), [join(), WorkerInput::Lose("no heartbeat".into())]);
        assert!(worker.is_terminated());
        for input in [join(), WorkerInput::Take(1), WorkerInput::Drain(String::new()), WorkerInput::Idle] {
            assert_eq!(step(Some(&worker), input, at(9)), None);
        }
    }
}
