//! The event handlers of the session. Synchronous: a handler puts its messages into the outbox.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use hodei_core::id::AttemptId;
use hodei_core::job::{AttemptReport, FailureCause, Outcome};
use hodei_core::port::{ClockExt, Elapsed};
use hodei_core::worker::WorkerMetrics;
use hodei_proto::convert;
use hodei_proto::v1::server_message::Body;
use hodei_proto::v1::{self, ServerMessage};

use super::ledger::{Accepted, Held, Outgoing, Stage, Work};
use super::watchdog::Overdue;
use super::{FINAL_ACK_TIMEOUT, Link, LinkStep, MAX_OUTBOX_MESSAGES, Session, messages, supervise};
use crate::connection::{ConnectError, Connection};
use crate::executor::{JobEvent, Stop, StopReason};
use crate::probe::HostProbe;

/// Number of consecutive failures to connect after which the agent logs a warning.
const FAILURES_BEFORE_WARNING: u32 = 5;

/// Timeout of a connection, its registration and its stream together. The first two also have timeouts of their own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

impl Session {
    pub(super) fn on_link(&mut self, step: LinkStep) {
        match step {
            LinkStep::Due => {
                let (connector, clock) = (self.agent.connector.clone(), self.agent.clock.clone());
                self.link = Link::Connecting(Box::pin(async move {
                    let silent = |elapsed: Elapsed| ConnectError::Unavailable(elapsed.to_string());
                    clock.timeout(CONNECT_TIMEOUT, connector.connect()).await.map_err(silent)?
                }));
            }
            LinkStep::Connected(Ok(connection)) => self.on_connected(connection),
            LinkStep::Connected(Err(ConnectError::Refused(why))) => {
                tracing::warn!(%why, "the platform refuses this worker");
                self.left = true;
            }
            LinkStep::Connected(Err(error)) => {
                // A restart of the platform takes less time and is not worth a warning.
                match self.failures {
                    FAILURES_BEFORE_WARNING => {
                        tracing::warn!(%error, "cannot connect to the platform: still trying")
                    }
                    _ => tracing::debug!(%error, "cannot connect to the platform"),
                }
                self.on_disconnected();
            }
            LinkStep::Received(Some(message)) => {
                self.last_contact = self.agent.clock.monotonic();
                self.on_message(*message);
            }
            LinkStep::Received(None) => self.on_disconnected(),
            LinkStep::Room => self.send(),
        }
    }

    fn on_connected(&mut self, connection: Connection) {
        self.failures = 0;
        self.outbox.clear();
        self.outbox.push_back(messages::hello(&self.agent.config, &self.ledger));
        self.link = Link::Up { connection, welcomed: false };
    }

    fn on_disconnected(&mut self) {
        if let Link::Up { welcomed: true, .. } = self.link {
            // An open stream counts as contact, even without messages.
            self.last_contact = self.agent.clock.monotonic();
        }
        let away = self.agent.clock.monotonic().saturating_sub(self.last_contact);
        if away >= self.agent.config.orphan_timeout {
            tracing::warn!(?away, "the platform was away for the orphan timeout: the agent ends");
            self.left = true;
        }
        let wait = self.agent.config.reconnect * (1 << self.failures.min(3));
        let wait = wait.mul_f64(1.0 - jitter(self.agent.config.seed, self.failures) / 2.0);
        self.failures = self.failures.saturating_add(1);
        (self.heartbeat, self.announce) = (None, None);
        self.outbox.clear();
        self.link = Link::Waiting(self.agent.clock.sleep(wait));
        self.spill();
    }

    fn send(&mut self) {
        let Link::Up { connection, .. } = &self.link else { return };
        while let Ok(slot) = connection.outgoing.try_reserve() {
            let Some(message) = self.outbox.pop_front() else { return };
            slot.send(message);
        }
    }

    fn on_message(&mut self, message: ServerMessage) {
        match message.body {
            Some(Body::Welcome(welcome)) => self.on_welcome(&welcome),
            Some(Body::RunJobs(run)) => run.assignments.into_iter().for_each(|item| self.on_assignment(item)),
            Some(Body::Recall(recall)) => self.on_recall(&ids(&recall.attempts)),
            Some(Body::CancelJob(cancel)) => self.on_cancel(&cancel),
            Some(Body::LogAck(ack)) => {
                if let Ok(attempt) = convert::attempt_id(ack.attempt.as_ref()) {
                    self.ledger.on_log_ack(attempt, ack.next_sequence);
                }
            }
            Some(Body::ResultAck(ack)) => {
                ids(&ack.attempts).into_iter().for_each(|id| self.ledger.on_result_ack(id))
            }
            Some(Body::Fenced(fenced)) => {
                let stop = Stop { reason: StopReason::Abandon, grace: Duration::ZERO };
                for attempt in ids(&fenced.attempts) {
                    self.ledger.abandon(attempt);
                    self.watch_stop(attempt, stop);
                }
            }
            Some(Body::Drain(_)) => self.on_drain(),
            Some(Body::Servers(servers)) => self.agent.connector.learn(&servers.urls),
            None => tracing::debug!("ignored a message of a newer protocol"),
        }
    }

    /// Handles Welcome. The platform knows the held attempts by now; the agent resends everything unacknowledged.
    fn on_welcome(&mut self, welcome: &v1::Welcome) {
        self.interval = Duration::from_micros(welcome.heartbeat_micros.max(1000));
        self.agent.connector.learn(&welcome.servers);
        self.heartbeat = Some(self.agent.clock.sleep(self.interval));
        if let Link::Up { welcomed, .. } = &mut self.link {
            *welcomed = true;
        }
        self.unannounced.clear();
        let started = self.ledger.held().filter_map(|(attempt, held)| match held.stage {
            Stage::Running { started_at: Some(at), .. } => Some(messages::started(attempt, at)),
            _ => None,
        });
        self.outbox.extend(started);
        self.ledger.rewind();
        if self.draining {
            self.give_up_waiting();
        }
    }

    fn resend_state(&mut self, attempt: AttemptId) {
        if let Some(Held { stage: Stage::Running { started_at: Some(at), .. }, .. }) =
            self.ledger.get(attempt)
        {
            self.outbox.push_back(messages::started(attempt, *at));
        }
        self.ledger.resend_report(attempt);
    }

    /// Moves unsent output and reports from the ledger to the outbox, up to its limit.
    pub(super) fn fill_outbox(&mut self) {
        if !self.is_welcome() {
            return;
        }
        while self.outbox.len() < MAX_OUTBOX_MESSAGES
            && let Some(outgoing) = self.ledger.next_outgoing()
        {
            self.outbox.push_back(match outgoing {
                Outgoing::Logs(batch) => messages::logs(batch),
                Outgoing::Finished(attempt, report) => messages::finished(attempt, &report),
            });
        }
    }

    fn is_welcome(&self) -> bool {
        matches!(self.link, Link::Up { welcomed: true, .. })
    }

    /// Moves output to disk while the platform is away, before it holds up its job.
    fn spill(&mut self) {
        if let (false, Some(spool)) = (self.is_welcome(), &self.agent.config.spool) {
            self.ledger.spill(&spool.dir, spool.limit);
        }
    }

    fn on_assignment(&mut self, assignment: v1::Assignment) {
        let Ok(attempt) = convert::attempt_id(assignment.attempt.as_ref()) else {
            return tracing::warn!("ignored an assignment without a valid attempt");
        };
        if self.draining {
            // An attempt that already runs must not be given back: it would run twice.
            match self.ledger.decline(attempt, assignment.dispatch) {
                Accepted::Known => self.resend_state(attempt),
                Accepted::New | Accepted::Past => self.outbox.push_back(messages::give_back(&[attempt])),
            }
            return;
        }
        let secrets = convert::secrets_from_wire(&assignment.secrets);
        let spec = assignment.spec.ok_or(convert::ConvertError::Missing("spec"));
        let spec = spec.and_then(convert::spec_from_wire);
        let work = match spec.and_then(|spec| Ok(Work { spec, secrets: secrets? })) {
            Ok(work) => work,
            Err(error) => return self.refuse(attempt, assignment.dispatch, &error),
        };
        match self.ledger.accept(attempt, assignment.dispatch, work) {
            Accepted::New => {}
            Accepted::Known => self.resend_state(attempt),
            // The attempt ended and was acknowledged, or it was given back and that message was lost. In the first case
            // the platform ignores the message.
            Accepted::Past => self.outbox.push_back(messages::give_back(&[attempt])),
        }
    }

    /// Ends an unreadable assignment as an infrastructure failure.
    fn refuse(&mut self, attempt: AttemptId, dispatch: u64, error: &convert::ConvertError) {
        let stop = Stop { reason: StopReason::Abandon, grace: Duration::ZERO };
        let why = format!("the agent cannot read the spec: {error}");
        let outcome = Outcome::Failed(FailureCause::Infrastructure(why));
        let report = AttemptReport::unstarted(outcome, self.agent.clock.now());
        self.ledger.cancel(attempt, dispatch, stop, report);
    }

    fn on_recall(&mut self, attempts: &[AttemptId]) {
        let given: Vec<_> = attempts.iter().copied().filter(|attempt| self.ledger.recall(*attempt)).collect();
        if !given.is_empty() {
            self.outbox.push_back(messages::give_back(&given));
        }
        // The others have started, which the platform does not know yet.
        for attempt in attempts.iter().filter(|attempt| !given.contains(attempt)) {
            self.resend_state(*attempt);
        }
    }

    fn on_cancel(&mut self, cancel: &v1::CancelJob) {
        let Ok(attempt) = convert::attempt_id(cancel.attempt.as_ref()) else { return };
        let stop = Stop { reason: StopReason::Cancel, grace: Duration::from_micros(cancel.grace_micros) };
        let unstarted = AttemptReport::unstarted(Outcome::Cancelled, self.agent.clock.now());
        self.ledger.cancel(attempt, cancel.dispatch, stop, unstarted);
        self.watch_stop(attempt, stop);
    }

    /// Sets a time limit for the stop of a running attempt.
    fn watch_stop(&mut self, attempt: AttemptId, stop: Stop) {
        if let Some(process) = self.ledger.process(attempt) {
            let due = self.agent.clock.monotonic() + stop.grace + self.agent.config.stop_margin;
            self.watchdog.stop(attempt, stop, due, process);
        }
    }

    /// Sets the alarm of the watchdog, unless an earlier one is set.
    pub(super) fn set_watch(&mut self) {
        let Some(next) = self.watchdog.next() else { return };
        if self.watch.as_ref().is_none_or(|(set, _)| next < *set) {
            let wait = next.saturating_sub(self.agent.clock.monotonic());
            self.watch = Some((next, self.agent.clock.sleep(wait)));
        }
    }

    /// Enforces the timeouts and stops that executors missed.
    pub(super) fn on_overdue(&mut self) {
        for overdue in self.watchdog.overdue(self.agent.clock.monotonic()) {
            match overdue {
                Overdue::Stop(attempt, stop) => {
                    tracing::warn!(%attempt, "an attempt ran past its timeout: telling its executor to stop it");
                    self.ledger.stop(attempt, stop);
                    self.watch_stop(attempt, stop);
                }
                Overdue::GiveUp(attempt, reason) => self.give_up(attempt, reason),
            }
        }
    }

    /// Ends an attempt whose executor does not stop it. Its task is dropped at its next wait, if it has one.
    fn give_up(&mut self, attempt: AttemptId, reason: StopReason) {
        tracing::error!(%attempt, ?reason, "an executor does not stop its attempt, which is given up: its processes may still run");
        if let Some(task) = self.tasks.remove(&attempt) {
            task.abort();
        }
        let report = supervise::given_up(reason, self.ledger.started_at(attempt), self.agent.clock.now());
        self.on_event(JobEvent::Finished { attempt, report });
    }

    pub(super) fn on_drain(&mut self) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        if self.is_welcome() {
            self.give_up_waiting();
        }
    }

    /// Tells the platform that the agent takes no more jobs, and gives the waiting ones back. Called on a welcomed
    /// stream only: until then they are kept.
    fn give_up_waiting(&mut self) {
        self.outbox.push_back(messages::draining(false));
        let waiting = self.ledger.waiting();
        self.on_recall(&waiting);
    }

    pub(super) fn on_event(&mut self, event: JobEvent) {
        match event {
            JobEvent::Started { attempt, at } => {
                if self.ledger.on_started(attempt, at) {
                    let due = self.agent.clock.monotonic() + self.agent.config.start_delay;
                    self.unannounced.push_back((due, attempt, at));
                    self.announce
                        .get_or_insert_with(|| self.agent.clock.sleep(self.agent.config.start_delay));
                }
            }
            JobEvent::Logs { attempt, chunks } => {
                self.ledger.on_logs(attempt, &chunks);
                self.spill();
            }
            JobEvent::Finished { attempt, report } => {
                self.unannounced.retain(|(_, started, _)| *started != attempt);
                self.watchdog.end(attempt);
                self.tasks.remove(&attempt);
                self.on_finished(attempt, report);
            }
            JobEvent::GivenBack { attempt } => {
                // If the platform is away, the next stream repeats the assignment, which is then given back.
                if self.ledger.give_back(attempt) && self.is_welcome() {
                    self.outbox.push_back(messages::give_back(&[attempt]));
                }
            }
        }
    }

    /// Reports the starts that are older than the start delay: their jobs are not short.
    pub(super) fn announce_starts(&mut self) {
        let now = self.agent.clock.monotonic();
        while let Some((due, attempt, at)) = self.unannounced.front().copied() {
            if due > now {
                self.announce = Some(self.agent.clock.sleep(due - now));
                return;
            }
            self.unannounced.pop_front();
            if self.is_welcome() {
                self.outbox.push_back(messages::started(attempt, at));
            }
        }
    }

    pub(super) fn beat(&mut self) {
        self.renewals += 1;
        let (spool_bytes, dropped_logs) = self.ledger.spooled();
        let slots_used = u32::try_from(self.ledger.running()).unwrap_or(u32::MAX);
        let metrics = self.probe.as_mut().map(HostProbe::sample);
        let metrics = metrics.map(|host| WorkerMetrics { slots_used, spool_bytes, dropped_logs, ..host });
        // Ahead of all queued messages: a worker with a long queue is alive.
        self.outbox.push_front(messages::heartbeat(self.renewals, metrics.as_ref()));
        self.heartbeat = Some(self.agent.clock.sleep(self.interval));
    }

    pub(super) fn leave_if_done(&mut self) {
        if !self.draining || !self.ledger.is_empty() || self.ledger.running() > 0 || self.left {
            return;
        }
        if self.is_welcome() {
            self.outbox.push_back(messages::draining(true));
            (self.left, self.retired) = (true, true);
        } else if self.evicting.is_none() {
            // The platform may come back in time to hear it; a longer wait is not worthwhile.
            self.evicting = Some(self.agent.clock.sleep(FINAL_ACK_TIMEOUT));
        }
    }
}

/// Returns a number in `0.0..1.0` that spreads the reconnects of agents that lost the platform together.
fn jitter(seed: u64, failures: u32) -> f64 {
    let mut hasher = std::hash::DefaultHasher::new();
    (seed, failures).hash(&mut hasher);
    (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64
}

fn ids(attempts: &[v1::AttemptRef]) -> Vec<AttemptId> {
    attempts.iter().filter_map(|attempt| convert::attempt_id(Some(attempt)).ok()).collect()
}
