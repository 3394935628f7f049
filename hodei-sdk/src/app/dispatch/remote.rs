//! Relay of changes that other daemons store: to the workers connected here, and to waiters of this daemon.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::AggregateId;
use hodei_core::event::channel::{
    JOB_OUTPUT_CHANNEL, JOB_QUEUE_CHANNEL, WORKER_DISPATCH_CHANNEL, WORKER_READY_CHANNEL,
};
use hodei_core::event::{DomainEvent, Envelope};
use hodei_core::id::{AttemptId, WorkerId};
use hodei_core::job::Job;
use hodei_core::port::{BoxFuture, Delivery, StoreError};

use hodei_proto::v1;
use hodei_proto::v1::server_message::Body;

use crate::app::cluster::membership::Membership;
use crate::app::dispatch::dispatcher::JobDispatcher;
use crate::app::follow::job_notifier::JobNotifier;
use crate::app::follow::log_notifier::LogNotifier;
use crate::app::ports::Ports;
use crate::app::workers::stream_registry::StreamRegistry;

/// Relays changes that other daemons store: work and requests to the workers connected here, and news of jobs to their
/// waiters. A sweep finds changes whose hint was lost.
#[derive(Debug)]
pub(crate) struct RemoteDispatch {
    pub(crate) ports: Arc<Ports>,
    pub(crate) streams: StreamRegistry,
    pub(crate) membership: Membership,
    pub(crate) dispatcher: JobDispatcher,
    pub(crate) job_notifier: JobNotifier,
    pub(crate) log_notifier: LogNotifier,
}

impl RemoteDispatch {
    /// Relays until the platform stops.
    pub(crate) async fn run(self) {
        // With an exclusive store there are no hints of other daemons.
        let channels: &[&'static str] = if self.membership.is_shared() {
            &[WORKER_DISPATCH_CHANNEL, WORKER_READY_CHANNEL, JOB_QUEUE_CHANNEL, JOB_OUTPUT_CHANNEL]
        } else {
            &[WORKER_DISPATCH_CHANNEL]
        };
        let mut hints = self.ports.bus.subscribe(channels);
        let (mut idle_sweeps, mut urls) = (0, Vec::new());
        let mut sweep = self.next_sweep(idle_sweeps);
        loop {
            self.announce_urls(&mut urls);
            let changes = self.membership.with(|cluster, _| cluster.changes());
            let relayed = tokio::select! {
                biased;
                delivery = hints.next() => match delivery {
                    Delivery::Events(events) => self.on_hints(&events).await,
                    Delivery::Lagged => {
                        self.job_notifier.lost();
                        self.log_notifier.lost();
                        self.resend(Duration::ZERO).await.map(drop)
                    }
                },
                () = self.membership.changed(changes), if self.membership.is_shared() => Ok(()),
                () = &mut sweep => {
                    let patience = self.ports.settings.sweep.unwrap_or_default();
                    let sent = self.resend(patience).await;
                    idle_sweeps = if matches!(sent, Ok(0)) { idle_sweeps + 1 } else { 0 };
                    sweep = self.next_sweep(idle_sweeps);
                    sent.map(drop)
                }
            };
            if let Err(error) = relayed {
                tracing::warn!(%error, "cannot read the work of workers here: the sweep tries again");
            }
        }
    }

    /// Tells the agents here at which other daemons they can connect when this one dies.
    fn announce_urls(&self, known: &mut Vec<String>) {
        let urls = self.membership.urls();
        if urls == *known {
            return;
        }
        known.clone_from(&urls);
        for (worker, _) in self.streams.renewals() {
            self.streams.send(worker, Body::Servers(v1::Servers { urls: urls.clone() }));
        }
    }

    fn next_sweep(&self, idle_sweeps: u32) -> BoxFuture<'static, ()> {
        let Some(period) = self.ports.settings.sweep else { return Box::pin(std::future::pending()) };
        let longest = period.max(self.membership.idle_sweep());
        self.ports.clock.sleep((period * (1 << idle_sweeps.min(5))).min(longest))
    }

    async fn on_hints(&self, events: &[Envelope]) -> Result<(), StoreError> {
        let (mut workers, mut jobs) = (BTreeSet::new(), Vec::new());
        for envelope in events {
            match (envelope.aggregate, &envelope.event) {
                (
                    AggregateId::Worker(worker),
                    DomainEvent::WorkerDispatchRequested { attempts, recalled },
                ) if self.streams.is_open(worker) => {
                    if !recalled.is_empty() {
                        self.dispatcher.recall(worker, recalled);
                    }
                    if recalled.is_empty() || !attempts.is_empty() {
                        workers.insert(worker);
                        jobs.extend(attempts.iter().map(|attempt| attempt.job));
                    }
                }
                (AggregateId::Worker(_), DomainEvent::WorkerReadyForJob { closed }) => {
                    closed.iter().for_each(|attempt| self.job_notifier.heard(attempt.job));
                }
                (
                    AggregateId::Worker(worker),
                    DomainEvent::WorkerLost { .. } | DomainEvent::WorkerTerminated { .. },
                ) => self.streams.cut(worker),
                (AggregateId::Job(job), DomainEvent::JobOutputStored { attempt: number }) => {
                    self.log_notifier.heard(AttemptId { job, number: *number });
                }
                (AggregateId::Job(job), _) => self.job_notifier.heard(job),
                _ => {}
            }
        }
        if workers.is_empty() {
            return Ok(());
        }
        let found = self.ports.store.jobs(&jobs).await?;
        let jobs: Vec<Arc<Job>> = found.into_iter().flatten().collect();
        self.send(&workers.into_iter().collect::<Vec<_>>(), &jobs).await
    }

    /// Resends to the workers here the jobs that they should have for at least `patience`. Returns how many jobs they
    /// have.
    async fn resend(&self, patience: Duration) -> Result<usize, StoreError> {
        let workers: Vec<WorkerId> = self.streams.renewals().into_iter().map(|(worker, _)| worker).collect();
        if workers.is_empty() {
            return Ok(0);
        }
        let now = self.ports.clock.now();
        let mut jobs = self.ports.store.jobs_of_workers(&workers).await?;
        let count = jobs.len();
        // A job assigned later than now was assigned before the clock was set back.
        jobs.retain(|job| {
            job.assignment().is_some_and(|assigned| assigned.at > now || assigned.at + patience <= now)
        });
        self.send(&workers, &jobs).await?;
        Ok(count)
    }

    async fn send(&self, workers: &[WorkerId], jobs: &[Arc<Job>]) -> Result<(), StoreError> {
        for worker in self.ports.store.workers(workers).await?.into_iter().flatten() {
            let mine = jobs.iter().filter(|job| job.worker() == Some(worker.id()));
            self.dispatcher.redispatch(&worker, mine);
        }
        Ok(())
    }
}
