//! Builds the messages of the agent from the ledger.

use hodei_core::id::AttemptId;
use hodei_core::job::AttemptReport;
use hodei_core::time::Timestamp;
use hodei_core::worker::WorkerMetrics;
use hodei_proto::v1::agent_message::Body;
use hodei_proto::v1::{self, AgentMessage};
use hodei_proto::{PROTOCOL_VERSION, convert};

use super::AgentConfig;
use super::ledger::{Ledger, Stage};

pub(super) fn hello(config: &AgentConfig, ledger: &Ledger) -> AgentMessage {
    let held = ledger.held().map(|(attempt, held)| v1::HeldAttempt {
        attempt: Some(convert::attempt_ref(attempt)),
        log_sequence: held.spool.first(),
        started: match &held.stage {
            Stage::Waiting(_) => false,
            Stage::Running { .. } => true,
            Stage::Ended { report, .. } => report.started_at.is_some(),
        },
    });
    message(Body::Hello(v1::Hello {
        version: PROTOCOL_VERSION,
        slots: config.slots,
        prefetch: config.prefetch,
        resources: Some(convert::resources_to_wire(&config.resources)),
        labels: config.labels.clone(),
        held: held.collect(),
    }))
}

pub(super) fn started(attempt: AttemptId, at: Timestamp) -> AgentMessage {
    let attempt = Some(convert::attempt_ref(attempt));
    message(Body::JobStarted(v1::JobStarted { attempt, started_at_micros: at.as_micros() }))
}

pub(super) fn logs(batch: v1::LogBatch) -> AgentMessage {
    message(Body::LogBatch(batch))
}

pub(super) fn finished(attempt: AttemptId, report: &AttemptReport) -> AgentMessage {
    message(Body::JobFinished(convert::report_to_wire(attempt, report)))
}

pub(super) fn give_back(attempts: &[AttemptId]) -> AgentMessage {
    let attempts = attempts.iter().map(|attempt| convert::attempt_ref(*attempt)).collect();
    message(Body::GiveBack(v1::GiveBack { attempts }))
}

pub(super) fn heartbeat(renewals: u64, metrics: Option<&WorkerMetrics>) -> AgentMessage {
    let metrics = metrics.map(convert::metrics_to_wire);
    message(Body::Heartbeat(v1::Heartbeat { renewals, metrics }))
}

pub(super) fn draining(empty: bool) -> AgentMessage {
    message(Body::Draining(v1::Draining { empty }))
}

fn message(body: Body) -> AgentMessage {
    AgentMessage { body: Some(body) }
}
