//! Dispatcher: sends messages to workers for stored decisions, and sends them again.

use std::collections::BTreeMap;
use std::sync::Arc;

use hodei_core::decision::{Aggregate, Decision, Effect};
use hodei_core::id::{AttemptId, WorkerId};
use hodei_core::job::Job;
use hodei_core::worker::{Worker, WorkerStatus};
use hodei_proto::v1::server_message::Body;
use hodei_proto::{convert, v1};
use prost::Message;
use tokio::sync::mpsc;

use crate::app::dispatch::messages::{Preparation, assignment, cancel_of};
use crate::app::workers::stream_registry::{StreamRegistry, Terms};
use crate::batch::fitting;

/// Turns stored state into messages to workers. A message may be lost: it can be built from the store again.
#[derive(Debug, Clone)]
pub(crate) struct JobDispatcher {
    streams: StreamRegistry,
    /// Queue of jobs that need secrets, or whose artifacts the agent does not support.
    preparations: mpsc::Sender<Preparation>,
}

/// Bytes of one message, unless a single job has more.
const MAX_MESSAGE_BYTES: usize = 2 << 20;

impl JobDispatcher {
    /// Creates a dispatcher over the open streams.
    pub(crate) fn new(streams: StreamRegistry, preparations: mpsc::Sender<Preparation>) -> Self {
        Self { streams, preparations }
    }

    /// Performs the effects of stored decisions; one message carries all new jobs of a worker. Returns the attempts
    /// whose worker has no stream here.
    pub(crate) fn perform(&self, decisions: &[&Decision]) -> BTreeMap<WorkerId, Vec<AttemptId>> {
        let mut unreached: BTreeMap<WorkerId, Vec<AttemptId>> = BTreeMap::new();
        let mut runs: BTreeMap<WorkerId, Vec<v1::Assignment>> = BTreeMap::new();
        for decision in decisions {
            for effect in &decision.effects {
                match (effect, &decision.next) {
                    // Never without its secrets, nor to an agent that would ignore its artifacts.
                    (Effect::RunJob { worker, .. }, Aggregate::Job(job))
                        if self.needs_preparation(*worker, job) =>
                    {
                        if self.streams.is_open(*worker) {
                            self.prepare(*worker, job.clone());
                        } else {
                            unreached.entry(*worker).or_default().push(job.attempt_id());
                        }
                    }
                    (Effect::RunJob { worker, .. }, Aggregate::Job(job)) => {
                        runs.entry(*worker).or_default().extend(assignment(job));
                    }
                    (Effect::StopAttempt { worker, attempt, dispatch, grace }, _) => {
                        let sent = self.streams.send(*worker, cancel_of(*attempt, *dispatch, *grace));
                        if !sent {
                            unreached.entry(*worker).or_default().push(*attempt);
                        }
                    }
                    (Effect::DrainWorker(worker), _) => {
                        let sent = self.streams.send(*worker, Body::Drain(v1::Drain {}));
                        if !sent {
                            unreached.entry(*worker).or_default();
                        }
                    }
                    // Destroying a worker is up to its provider: see WorkerLifecycleManager.
                    _ => {}
                }
            }
        }
        for (worker, assignments) in runs {
            if self.streams.is_open(worker) {
                self.send(worker, assignments);
            } else {
                let attempts =
                    assignments.iter().filter_map(|run| convert::attempt_id(run.attempt.as_ref()).ok());
                unreached.entry(worker).or_default().extend(attempts);
            }
        }
        unreached
    }

    /// Whether a job must be prepared: it needs secrets, or artifacts that the agent of its worker does not support.
    fn needs_preparation(&self, worker: WorkerId, job: &Job) -> bool {
        let spec = job.spec();
        let has_artifacts = !spec.inputs().is_empty() || !spec.outputs().is_empty();
        let knows = |(_, terms): (u64, Terms)| terms.knows_secrets_and_artifacts();
        !spec.secrets().is_empty() || has_artifacts && !self.streams.terms(worker).is_some_and(knows)
    }

    /// Queues a job for preparation. When the queue is full, the sweep finds the job again.
    fn prepare(&self, worker: WorkerId, job: Arc<Job>) {
        if let Err(error) = self.preparations.try_send(Preparation { worker, job }) {
            tracing::warn!(%error, "cannot queue a job that needs secrets or artifacts: the sweep finds it");
        }
    }

    /// Sends assignments in as few messages as the size limit allows.
    fn send(&self, worker: WorkerId, mut assignments: Vec<v1::Assignment>) {
        while !assignments.is_empty() {
            let rest = assignments.split_off(fitting(
                assignments.iter().map(Message::encoded_len),
                usize::MAX,
                MAX_MESSAGE_BYTES,
            ));
            self.streams.send(worker, Body::RunJobs(v1::RunJobs { assignments }));
            assignments = rest;
        }
    }

    /// Resends the messages that a worker should have: jobs not known to run, in assignment order, and requests to stop
    /// and to drain.
    pub(crate) fn redispatch<'a>(&self, worker: &Worker, jobs: impl IntoIterator<Item = &'a Arc<Job>>) {
        let (worker, drains) = (worker.id(), worker.status() == WorkerStatus::Draining);
        if drains {
            self.streams.send(worker, Body::Drain(v1::Drain {}));
        }
        let assigned =
            |job: &'a Arc<Job>| job.assignment().filter(|at| at.worker == worker).map(|at| (job, at));
        let mut jobs: Vec<_> = jobs.into_iter().filter_map(assigned).collect();
        // The agent starts jobs in the order in which they arrive, and a store returns them in the order of their ids.
        jobs.sort_unstable_by_key(|(_, at)| at.dispatch);
        let mut assignments = Vec::new();
        for (job, at) in jobs {
            if at.cancel_requested {
                let cancel = cancel_of(job.attempt_id(), at.dispatch, job.spec().kill_grace());
                self.streams.send(worker, cancel);
            } else if job.status() == hodei_core::job::JobStatus::Assigned
                && self.needs_preparation(worker, job)
            {
                self.prepare(worker, job.clone());
            } else if job.status() == hodei_core::job::JobStatus::Assigned {
                assignments.extend(assignment(job));
            }
        }
        self.send(worker, assignments);
    }

    /// Asks a worker to give back attempts that it has not started. Returns false when the message could not be sent.
    pub(crate) fn recall(&self, worker: WorkerId, attempts: &[AttemptId]) -> bool {
        let attempts = attempts.iter().map(|attempt| convert::attempt_ref(*attempt)).collect();
        self.streams.send(worker, Body::Recall(v1::Recall { attempts }))
    }

    /// Tells a worker that attempts are over: it drops everything it holds of them.
    pub(crate) fn fence(&self, worker: WorkerId, attempts: &[AttemptId]) {
        let attempts = attempts.iter().map(|attempt| convert::attempt_ref(*attempt)).collect();
        self.streams.send(worker, Body::Fenced(v1::Fenced { attempts }));
    }
}

#[cfg(test)]
mod tests {
    use hodei_core::id::JobId;
    use hodei_core::job::{JobInput, JobSpec, Submission, TenantId, step};
    use hodei_core::time::Timestamp;
    use hodei_core::worker::{Lifetime, WorkerCapacity, WorkerInput, WorkerOrder};
    use uuid::Uuid;

    use super::*;
    use crate::app::workers::stream_registry::{OpenStream, Terms};

    fn worker() -> WorkerId {
        WorkerId::from_uuid(Uuid::from_u128(1))
    }

    fn job(decision: &Decision) -> Arc<Job> {
        let Aggregate::Job(job) = &decision.next else { panic!("not a job") };
        job.clone()
    }

    fn assigned(number: u128) -> Decision {
        assigned_with(number, Vec::new())
    }

    fn assigned_with(number: u128, stdin: Vec<u8>) -> Decision {
        let id = JobId::from_uuid(Uuid::from_u128(number));
        let spec = Arc::new(JobSpec::command(["true"]).stdin(stdin).build().unwrap());
        let submission = Submission { id, tenant: TenantId::default(), spec, retry_of: None };
        let pending = job(&step(None, JobInput::Submit(submission), Timestamp::EPOCH).unwrap());
        let assign = JobInput::Assign {
            worker: worker(),
            dispatch: number as u64,
            score: hodei_core::decision::Score::default(),
        };
        step(Some(&pending), assign, Timestamp::EPOCH).unwrap()
    }

    fn connected() -> (JobDispatcher, mpsc::Receiver<v1::ServerMessage>, OpenStream) {
        let (outgoing, incoming) = mpsc::channel(4);
        let streams = StreamRegistry::default();
        let open = streams.open(worker(), outgoing, Terms { is_private: true, version: 2 });
        (JobDispatcher::new(streams, mpsc::channel(1).0), incoming, open)
    }

    fn drained() -> (Decision, Decision) {
        let order = WorkerOrder {
            id: hodei_core::id::OrderId::from_uuid(Uuid::nil()),
            worker: worker(),
            provider: hodei_core::id::ProviderId::from_uuid(Uuid::nil()),
            owner: hodei_core::id::StoreId::from_uuid(Uuid::nil()),
            capacity: WorkerCapacity::slots(1),
            labels: hodei_core::job::Labels::new(),
            lifetime: Lifetime::default(),
        };
        let ordered = hodei_core::worker::step(None, WorkerInput::Order(order), Timestamp::EPOCH).unwrap();
        let Aggregate::Worker(registering) = &ordered.next else { panic!() };
        let drain = WorkerInput::Drain("test".into());
        let drain = hodei_core::worker::step(Some(registering), drain, Timestamp::EPOCH).unwrap();
        (ordered, drain)
    }

    fn sent(incoming: &mut mpsc::Receiver<v1::ServerMessage>) -> Vec<Body> {
        std::iter::from_fn(|| incoming.try_recv().ok()).filter_map(|message| message.body).collect()
    }

    #[test]
    fn new_jobs_of_a_worker_travel_in_one_message() {
        let (dispatcher, mut incoming, _open) = connected();
        let (first, second) = (assigned(1), assigned(2));
        dispatcher.perform(&[&first, &second]);
        let messages = sent(&mut incoming);
        assert!(matches!(&messages[..], [Body::RunJobs(run)] if run.assignments.len() == 2), "{messages:?}");
    }

    #[test]
    fn long_jobs_travel_in_several_messages() {
        let (dispatcher, mut incoming, _open) = connected();
        let long: Vec<Decision> = (1..=3).map(|number| assigned_with(number, vec![b'x'; 900_000])).collect();
        dispatcher.perform(&long.iter().collect::<Vec<_>>());
        let counts = sent(&mut incoming).into_iter().map(|body| match body {
            Body::RunJobs(run) => run.assignments.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(counts.collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn a_cancel_and_a_drain_reach_the_worker() {
        let (dispatcher, mut incoming, _open) = connected();
        let cancel = step(Some(&job(&assigned(1))), JobInput::Cancel, Timestamp::EPOCH).unwrap();
        let (ordered, drain) = drained();
        dispatcher.perform(&[&cancel, &ordered, &drain]);
        let messages = sent(&mut incoming);
        assert!(
            matches!(&messages[..], [Body::CancelJob(c), Body::Drain(_)] if c.dispatch == 1),
            "{messages:?}"
        );
    }

    #[test]
    fn jobs_stops_and_drains_are_resent() {
        let (dispatcher, mut incoming, _open) = connected();
        let (runs, stops) = (job(&assigned(1)), job(&assigned(2)));
        let stops = job(&step(Some(&stops), JobInput::Cancel, Timestamp::EPOCH).unwrap());
        let started = JobInput::Start { attempt: 1, started_at: Timestamp::EPOCH };
        let started = job(&step(Some(&job(&assigned(3))), started, Timestamp::EPOCH).unwrap());
        let Aggregate::Worker(draining) = drained().1.next else { panic!() };
        dispatcher.redispatch(&draining, [&runs, &stops, &started]);
        let messages = sent(&mut incoming);
        let [Body::Drain(_), Body::CancelJob(cancel), Body::RunJobs(run)] = &messages[..] else {
            panic!("{messages:?}")
        };
        assert_eq!((cancel.dispatch, run.assignments.len(), run.assignments[0].dispatch), (2, 1, 1));
    }

    #[test]
    fn jobs_are_resent_in_assignment_order() {
        let (dispatcher, mut incoming, _open) = connected();
        let (first, second) = (job(&assigned(1)), job(&assigned(2)));
        let Aggregate::Worker(registering) = drained().0.next else { panic!() };
        dispatcher.redispatch(&registering, [&second, &first]);
        let messages = sent(&mut incoming);
        let [Body::RunJobs(run)] = &messages[..] else { panic!("{messages:?}") };
        let numbers: Vec<u64> = run.assignments.iter().map(|assignment| assignment.dispatch).collect();
        assert_eq!(numbers, [1, 2]);
    }

    #[test]
    fn a_worker_that_reads_nothing_is_cut_off() {
        let (dispatcher, incoming, _open) = connected();
        let attempt = job(&assigned(1)).attempt_id();
        for _ in 0..4 {
            dispatcher.recall(worker(), &[attempt]);
        }
        assert!(dispatcher.streams.is_open(worker()));
        dispatcher.fence(worker(), &[attempt]);
        assert!(
            !dispatcher.streams.is_open(worker()),
            "cut off, so that it reconnects and receives the missed messages"
        );
        drop(incoming);
    }
}
